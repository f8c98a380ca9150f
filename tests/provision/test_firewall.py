"""firewall.py with stand-ins for each system's tool, and with the kernel's nftables where namespaces may be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smolcluster.provision import firewall
from tests.lab.allowed import why_no_namespaces

SCRIPT = Path(firewall.__file__)
SUBNETS = ["10.10.0.0/24", "192.168.50.0/24"]
# Tools that keep what they are told in a file, a line each, whether they are on or off, which is another file.
_UFW = """\
import os, pathlib, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
kept = here / "ufw.rules"
rules = kept.read_text().splitlines() if kept.exists() else []
if words == ["status"]:
    on = "Status: active" if os.environ.get("LC_ALL") == "C" else "Status: Aktiv"
    print(on if (here / "ufw.on").exists() else "Status: inactive")
elif words == ["show", "added"]:
    print("Added user rules (see 'ufw status' for running firewall):")
    print("\\n".join(rules))
elif words[0] == "allow":
    proto, tcp, _, source, to, _, port, ports, _, comment = words[1:]
    assert (proto, tcp, to, port) == ("proto", "tcp", "to", "port"), words
    rules.append(f"ufw allow from {source} to any port {ports} proto tcp comment '{comment}'")
    kept.write_text("\\n".join(rules))
elif words[:2] == ["delete", "allow"]:
    assert len(words) == 10, words
    left = [rule for rule in rules if f" from {words[5]} to any port {words[9]} " not in rule]
    assert len(left) == len(rules) - 1, (words, rules)
    kept.write_text("\\n".join(left))
else:
    sys.exit(f"unknown: {words}")
"""
_FIREWALLD = """\
import pathlib, sys
words = sys.argv[1:]
here = pathlib.Path(__file__).parent
on = (here / "firewalld.on").exists()
if words == ["--state"]:
    print("running" if on else "not running")
    sys.exit(0 if on else 252)
if pathlib.Path(__file__).name == "firewall-offline-cmd":
    assert not on, words
    words.insert(0, "--permanent")
elif not on:
    print("FirewallD is not running", file=sys.stderr)
    sys.exit(252)
kept = here / ("zone.permanent" if words[0] == "--permanent" else "zone.runtime")
verb, _, rule = words[-1].partition("=")
rules = kept.read_text().splitlines() if kept.exists() else []
if verb == "--query-rich-rule":
    print("yes" if rule in rules else "no")
    sys.exit(rule not in rules)
assert verb in ("--add-rich-rule", "--remove-rich-rule"), words
rules.append(rule) if verb.startswith("--add") else rules.remove(rule)
kept.write_text("\\n".join(rules))
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder that stands before all others on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"ufw": _UFW, "firewall-cmd": _FIREWALLD, "firewall-offline-cmd": _FIREWALLD}.items():
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    # The machine's own, whatever it is, is not asked.
    (folder / "nft").write_text("#!/bin/sh\nexit 1\n")
    (folder / "nft").chmod(0o755)
    return folder


def call(tools: Path, verb: str, note: Path, *before: str, **more: Any) -> dict[str, Any]:
    order = {"note": str(note), "ports": [65432, 65531], "subnets": SUBNETS, "program": sys.executable, **more}
    command = [*before, sys.executable, "-I", "-", verb, json.dumps(order)]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "LC_ALL": "", "LANG": "de_DE.UTF-8"}
    done = subprocess.run(
        command, input=SCRIPT.read_text(), capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_without_a_firewall_nothing_is_done(tools: Path, tmp_path: Path) -> None:
    note = tmp_path / "state" / "firewall.json"
    assert call(tools, "add", note) == {
        "schema": 1, "changed": False, "text": [], "notes": [], "left": [],
    }  # fmt: skip
    assert not note.parent.exists()
    assert not call(tools, "remove", note)["changed"]


@pytest.mark.parametrize(("kind", "files"), [("ufw", ["ufw.rules"]), ("firewalld", ["zone.runtime", "zone.permanent"])])
def test_what_is_added_is_taken_back_and_nothing_else(tools: Path, tmp_path: Path, kind: str, files: list[str]) -> None:
    note = tmp_path / "state" / "firewall.json"
    theirs = {
        "ufw": f"ufw allow 22/tcp\nufw allow from {SUBNETS[0]} to any port 65432:65531 proto tcp",
        "firewalld": f'rule family="ipv4" source address="{SUBNETS[0]}" port port="65432-65531" protocol="tcp" accept',
    }[kind]
    for name in files:
        (tools / name).write_text(theirs)
    (tools / f"{kind}.on").touch()

    trial = call(tools, "add", note, check=True)
    assert (trial["changed"], len(trial["text"])) == (True, 1)
    assert not note.exists()
    assert all((tools / name).read_text() == theirs for name in files)

    # One subnet was let in by somebody else already: that rule is not ours.
    assert call(tools, "add", note)["changed"]
    assert len(json.loads(note.read_text())["rules"]) == 1
    assert all("192.168.50.0/24" in (tools / name).read_text() for name in files)
    assert not call(tools, "add", note)["changed"]

    # Other ports: the old exception goes.
    assert call(tools, "add", note, ports=[7000, 7003], subnets=SUBNETS[1:])["changed"]
    assert all("65531" not in line for name in files for line in (tools / name).read_text().splitlines()[-1:])

    assert call(tools, "remove", note)["changed"]
    assert all((tools / name).read_text() == theirs for name in files)
    assert not note.parent.exists()
    assert not call(tools, "remove", note)["changed"]


@pytest.mark.parametrize(("kind", "file"), [("ufw", "ufw.rules"), ("firewalld", "zone.permanent")])
def test_a_firewall_that_is_off_keeps_its_rules_and_ours_are_taken_back(
    tools: Path, tmp_path: Path, kind: str, file: str
) -> None:
    note, on = tmp_path / "state" / "firewall.json", tools / f"{kind}.on"
    theirs = {"ufw": "ufw allow 22/tcp", "firewalld": 'rule family="ipv4" service name="ssh" accept'}[kind]
    for name in (file, "zone.runtime"):
        (tools / name).write_text(theirs)
    on.touch()
    call(tools, "add", note)
    on.unlink()

    # Off for a while: what is wanted stays there, and stays ours.
    assert not call(tools, "add", note)["changed"]
    assert (len((tools / file).read_text().splitlines()), len(json.loads(note.read_text())["rules"])) == (3, 2)
    # What is not wanted any more goes from it.
    moved = call(tools, "add", note, subnets=SUBNETS[:1])
    assert (moved["changed"], len(moved["text"])) == (True, 1)
    assert "192.168.50.0/24" not in (tools / file).read_text()

    trial = call(tools, "remove", note, check=True)
    assert (trial["changed"], len(trial["text"])) == (True, 1)
    assert (tools / file).read_text() != theirs
    assert call(tools, "remove", note) == trial
    assert (tools / file).read_text() == theirs
    assert not note.parent.exists()


def test_what_nobody_can_ask_after_stays_noted(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: a machine's own firewall-offline-cmd is not to be found."""
    monkeypatch.setenv("PATH", str(tools))
    note, on = tmp_path / "state" / "firewall.json", tools / "firewalld.on"
    order: dict[str, Any] = {"note": str(note), "ports": [65432, 65531], "subnets": SUBNETS, "program": sys.executable}
    on.touch()
    firewall.add(order)
    on.unlink()
    (tools / "firewall-offline-cmd").unlink()
    # From now on ufw decides, and has no say in what firewalld keeps.
    (tools / "ufw.on").touch()
    added = firewall.add({**order, "ports": [7000, 7003]})
    assert added["text"] == [f"ufw: allow TCP 7000:7003 from {subnet}" for subnet in SUBNETS]
    assert all("as soon as it is on: firewalld does not run" in line for line in added["notes"])

    back = firewall.remove(order)
    assert back["text"] == [f"no longer allow TCP 7000:7003 from {subnet}" for subnet in SUBNETS]
    assert len(back["left"]) == 2
    assert [rule["kind"] for rule in json.loads(note.read_text())["rules"]] == ["firewalld", "firewalld"]
    again = firewall.remove(order)
    assert (again["changed"], again["left"]) == (False, back["left"])
    on.touch()
    back = firewall.remove(order)
    assert (back["changed"], back["left"]) == (True, [])
    assert not (tools / "zone.permanent").read_text()
    assert not note.parent.exists()


def test_an_answer_that_is_none_is_not_taken_for_gone(tools: Path, tmp_path: Path) -> None:
    note = tmp_path / "state" / "firewall.json"
    (tools / "ufw.on").touch()
    call(tools, "add", note)
    (tools / "ufw").write_text("#!/bin/sh\necho it is locked >&2; exit 1\n")
    with pytest.raises(AssertionError, match="ufw show added: it is locked"):
        call(tools, "remove", note)
    assert note.exists()


def test_a_tool_that_refuses_is_told(tools: Path, tmp_path: Path) -> None:
    (tools / "ufw").write_text(
        "#!/bin/sh\n[ $1 = status ] && echo Status: active && exit 0\n[ $1 = show ] && exit 0\n"
        "echo no such thing >&2; exit 1\n"
    )
    order = {"note": str(tmp_path / "note"), "ports": [1, 2], "subnets": SUBNETS, "program": sys.executable}
    command = [sys.executable, "-I", str(SCRIPT), "add", json.dumps(order)]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ufw allow proto tcp from 10.10.0.0/24" in done.stderr
    assert "no such thing" in done.stderr


_RULES = """\
table inet filter {
  chain input { type filter hook input priority 0; policy drop; iif "lo" accept; tcp dport 22 accept; }
  chain forward { type filter hook forward priority 0; policy drop; }
}
table ip open { chain input { type filter hook input priority 10; policy accept; counter; }; }
"""


def test_the_kernels_own_nftables(tools: Path, tmp_path: Path) -> None:
    """In a network namespace that lives as long as a shell of ours: no rule of this machine is touched."""
    if reason := why_no_namespaces({"nft": "nftables", "unshare": "util-linux"}):
        pytest.skip(reason)
    (tools / "nft").unlink()
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo up; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]

        def nft(*words: str, text: str = "") -> str:
            return subprocess.run(
                [*inside, "nft", *words], input=text, capture_output=True, text=True, check=True
            ).stdout

        nft("-f", "-", text=_RULES)
        before, note = nft("list", "ruleset"), tmp_path / "firewall.json"
        first = call(tools, "add", note, *inside)
        assert len(first["text"]) == 2
        assert "last until the next boot" in first["notes"][0]
        rules = nft("list", "chain", "inet", "filter", "input")
        for subnet in SUBNETS:
            assert f'ip saddr {subnet} tcp dport 65432-65531 accept comment "smolcluster {subnet} 65432-65531"' in rules
        assert "smolcluster" not in nft("list", "table", "ip", "open") + nft(
            "list", "chain", "inet", "filter", "forward"
        )
        assert not call(tools, "add", note, *inside)["changed"]
        # After a boot the rules are gone, and the note is not.
        nft("flush", "ruleset")
        nft("-f", "-", text=_RULES)
        assert call(tools, "add", note, *inside)["changed"]
        assert len(json.loads(note.read_text())["rules"]) == 2
        assert call(tools, "remove", note, *inside)["changed"]
        assert nft("list", "ruleset") == before
    finally:
        holder.communicate()
