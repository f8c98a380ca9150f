"""setup.yml from bare hosts with real wheels and no outside network, a training on what it made, and the way back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import Lab
from .configured import configure
from .disk import USER
from .playing import changed, play
from .training import ROOT, SMALL, inside, inventory_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NODES = ("mini1", "mini2")
WHEELS = ROOT / ".cache" / "wheels"
# What setup.yml could change on a host. Logs and what runs are the host's own.
_FOLDERS = "/Users /Library /etc /opt /usr/local /var/lib /var/db"


@pytest.fixture(scope="session")
def wheels() -> Path:
    """Everything that a node needs, from the index that this machine's pip knows; made once."""
    sources = [ROOT / "constraints.txt", ROOT / "pyproject.toml"]
    stamp = WHEELS / "made-of"
    told = "".join(path.read_text() for path in sources)
    if not stamp.exists() or stamp.read_text() != told:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--constraint",
            "constraints.txt",
            "--dest",
            str(WHEELS),
        ]
        subprocess.run([*command, ".[serve]"], cwd=ROOT, check=True, timeout=1800)
        stamp.write_text(told)
    return WHEELS


@pytest.fixture(scope="module")
def bare(namespaces: None, wheels: Path) -> Iterator[Lab]:
    """Two minis without anything of ours on the Wi-Fi, as they come: no network.yml. The MacBook is the controller."""
    with Lab(only=["macbook", *NODES]) as running:
        content = json.loads(running.inventory())
        for name in NODES:
            del content["machines"][name]["python"]
            as_a_mac(running, name)
        content["networks"] = {"wifi": content["networks"]["wifi"]}
        running.controller.write(inventory_of(running), json.dumps(content), owner=USER)
        yield running


def as_a_mac(lab: Lab, name: str) -> None:
    """A folder that every Mac has, and no Debian."""
    lab.host(name).run(["mkdir", "-p", "/var/db"])


def listing(lab: Lab, name: str) -> set[str]:
    """Every file of a host that somebody could have left there. On the controller Ansible keeps its own."""
    own = "-path '*/.ansible' -prune -o" if name == lab.controller.machine.name else ""
    script = f"find {_FOLDERS} -xdev {own} ! -path '*/lab-*' -printf '%y %p %l\\n' 2>/dev/null | sort"
    return set(lab.host(name).run(["sh", "-c", script]).stdout.splitlines())


def as_before(lab: Lab, before: dict[str, set[str]], *names: str) -> None:
    """Nothing is left of setup.yml, and nothing is missing."""
    for name in names or before:
        assert sorted(listing(lab, name) ^ before[name]) == [], name


@pytest.mark.soak
def test_from_bare_hosts_to_a_training_and_back(bare: Lab, wheels: Path) -> None:
    inventory = inventory_of(bare)
    for name in NODES:
        assert bare.host(name).run(["python3", "-c", "import smolcluster"], user=USER, check=False).returncode
        assert bare.host(name).run(["python3", "-c", "import torch"], user=USER, check=False).returncode
    before = {name: listing(bare, name) for name in NODES}

    done = play(bare, "setup.yml", "-e", f"wheels={wheels}", inventory=inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NODES:
        assert f"{name}  sending " in done.stdout
        note = json.loads(bare.host(name).read(f"{bare.host(name).home}/.smolcluster/runtime.json"))
        assert (note["python"], note["torch"].partition("+")[0]) == ("/usr/bin/python3.11", "2.13.0")
        # The stand-in's firewall is off and is told all the same: what listens is the real program, not the link to it.
        told = [words for words in bare.host(name).calls("socketfilterfw") if words[1] in ("--add", "--unblockapp")]
        program = "/usr/bin/python3.11"
        assert told == [["socketfilterfw", "--add", program], ["socketfilterfw", "--unblockapp", program]]
    again = play(bare, "setup.yml", "-e", f"wheels={wheels}", inventory=inventory)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {changed(again.stdout)[name] for name in NODES} == {0}

    flags = ["-e", "strategy=fsdp", "-e", "dataset=pydoc", "-e", f"nodes={','.join(NODES)}", "-e", "ship_lease_s=150"]
    run = play(
        bare, "train.yml", *flags, "-e", "follow_answer_s=150", "-e", f"override={','.join(SMALL)}", inventory=inventory
    )
    assert run.returncode == 0, run.stdout + run.stderr
    match = re.search(r"^Run (\S+)$", run.stdout, re.MULTILINE)
    assert match, run.stdout
    told = json.loads((inside(bare, ROOT / "runs" / match[1]) / "summary.json").read_text())
    assert (told["status"], told["world_size"], told["steps"]) == ("completed", 2, 8)

    bare.switch_off("mini2")
    back = play(bare, "teardown.yml", "-e", "runs=true", inventory=inventory)
    assert back.returncode != 0
    assert "mini2: it cannot be reached" in back.stdout + back.stderr
    as_before(bare, before, "mini1")
    bare.reboot("mini2")
    back = play(bare, "teardown.yml", "-e", "runs=true", inventory=inventory)
    assert back.returncode == 0, back.stdout + back.stderr
    as_before(bare, before)


_RULES = """\
table inet filter {
  chain input { type filter hook input priority 0; policy drop; iif "lo" accept; ip6 nexthdr icmpv6 accept;
    ct state established accept; tcp dport 22 accept; }
}
"""
_PASSWORD = "a word that sudo asks for"
_NAMES = ("macbook", "mini1", "pi5")
_OTHERS = ("--tags", "firewall,awake,clock", "-e", f"nodes={','.join(_NAMES)}")


@pytest.fixture
def pair(namespaces: None) -> Iterator[Lab]:
    """A mini, and the Pi plugged into it: a Linux under systemd with rules of its own. The controller computes, too."""
    with Lab(only=list(_NAMES)) as running:
        configure(running)
        running.controller.write(inventory_of(running), running.inventory(), owner=USER)
        for name in ("macbook", "mini1"):
            as_a_mac(running, name)
        running.host("pi5").run(["nft", "-f", "-"], text=_RULES)
        running.host("pi5").run(["mkdir", "-p", "/etc/polkit-1/rules.d"])
        # Its sudo asks, as most do.
        running.host("pi5").run(["chpasswd"], text=f"{USER}:{_PASSWORD}\n")
        running.host("pi5").write("/etc/sudoers.d/lab", f"{USER} ALL=(ALL) ALL\n", 0o440)
        yield running


def vault(lab: Lab) -> tuple[str, str]:
    """The Pi's password in Ansible Vault, as roles/runtime/README.md tells it; the option that opens it."""
    key, secret = f"{lab.controller.home}/vault-key", Path(inventory_of(lab)).parent / "host_vars" / "pi5.yml"
    lab.controller.write(key, "of the vault", 0o600, owner=USER)
    lab.controller.run(["mkdir", "-p", str(secret.parent)], user=USER)
    lab.controller.write(str(secret), f"ansible_become_password: {_PASSWORD}\n", owner=USER)
    given = ("--vault-password-file", key)
    lab.controller.run([f"{Path(sys.executable).parent}/ansible-vault", "encrypt", *given, str(secret)], user=USER)
    assert _PASSWORD not in lab.controller.read(str(secret))
    return given


def kept_out(lab: Lab, *more: str) -> dict[str, str]:
    """Whom others cannot dial, and what check.yml says of that."""
    done = play(lab, "check.yml", "-e", f"nodes={','.join(_NAMES)}", *more, inventory=inventory_of(lab))
    newest = max(inside(lab, ROOT / "runs" / "check").iterdir())
    told = json.loads((newest / "check.json").read_text())
    assert {way["dst"] for way in told["ways"]} == set(_NAMES), done.stdout + done.stderr
    found = {one["node"]: one["what"] for one in told["findings"] if "is not reached" in one["what"]}
    assert ("A run with all these machines could not start" in done.stdout + done.stderr) == bool(found), done.stdout
    return found


@pytest.mark.core
def test_what_needs_an_administrator_and_back(pair: Lab) -> None:
    inventory, pi = inventory_of(pair), pair.host("pi5")
    before = {name: listing(pair, name) for name in _NAMES}
    rules = pi.run(["nft", "list", "ruleset"]).stdout

    asks = play(pair, "setup.yml", "--tags", "awake", "-e", "nodes=pi5", inventory=inventory)
    assert asks.returncode != 0
    assert "fix: give sudo's password with ansible-playbook -K" in asks.stdout + asks.stderr, asks.stdout + asks.stderr
    as_before(pair, before)

    assert kept_out(pair) == {
        "pi5": "is not reached by anybody at 192.168.50.2 on ethernet_pi5: nothing came back in 8 s"
    }
    opened = vault(pair)
    before["macbook"] = listing(pair, "macbook")
    dry = play(pair, "setup.yml", *_OTHERS, *opened, "--check", inventory=inventory)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    as_before(pair, before)

    done = play(pair, "setup.yml", *_OTHERS, *opened, inventory=inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [words for words in pair.controller.calls("socketfilterfw") if words[1] == "--add"]
    assert told == [["socketfilterfw", "--add", str(Path(sys.executable).resolve())]], "the controller computes, too"
    assert "macbook: set up\n" in done.stdout
    assert "pi5  nftables: allow TCP 65432-65531 from 192.168.50.0/24" in done.stdout
    assert "its clock is" not in done.stdout, "both have the same one"
    now = pi.run(["nft", "list", "ruleset"]).stdout
    assert 'ip saddr 192.168.50.0/24 tcp dport 65432-65531 accept comment "smolcluster ' in now
    assert f'subject.user == "{USER}"' in pi.read("/etc/polkit-1/rules.d/50-smolcluster-awake.rules")
    assert kept_out(pair, *opened) == {}
    again = play(pair, "setup.yml", *_OTHERS, *opened, inventory=inventory)
    assert (again.returncode, set(changed(again.stdout).values())) == (0, {0}), again.stdout

    back = play(pair, "teardown.yml", *_OTHERS, *opened, inventory=inventory)
    assert back.returncode == 0, back.stdout + back.stderr
    assert pi.run(["nft", "list", "ruleset"]).stdout == rules
    as_before(pair, before)
    back = play(pair, "teardown.yml", *_OTHERS, *opened, inventory=inventory)
    assert (back.returncode, set(changed(back.stdout).values())) == (0, {0}), back.stdout
