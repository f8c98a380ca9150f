"""Ways that check.yml meant to try and could not: counted, with their reasons, and no "nothing wrong was found"."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from smolcluster.cli import app_of, run_app
from smolcluster.doctor.machines import Finding
from smolcluster.doctor.report import Check
from smolcluster.doctor.untried import Untried, read_untried, unknown_ways, untried_findings
from smolcluster.errors import ConfigError
from smolcluster.spec.inventory import load_inventory
from tests.unit.test_doctor import LOCAL, looked

AT = {"node1": "10.0.0.1", "node2": "10.0.0.2", "node3": "10.0.0.3"}
INVENTORY = (
    "schema: 1\nname: home\ncontroller: localhost\n"
    "machines: {mini1: {host: mini1.local}, mini2: {host: mini2.local}, win: {host: win.local}}\n"
    "networks:\n  lan: {medium: wifi, private: false, members: {mini1: m1.local, mini2: m2.local, win: win.local}}\n"
)


def pair(src: str, dst: str, at: dict[str, str] = AT) -> dict[str, Any]:
    return {"src": src, "dst": dst, "source": at[src], "destination": at[dst], "passes": [], "networks": ["lan"],
            "speed_mbps": 1000, "mtu": 1500}  # fmt: skip


def untold(src: str, dst: str, node: str) -> dict[str, str]:
    return {"src": src, "dst": dst, "node": node, "network": "lan"}


def all_well() -> dict[str, dict[str, Any]]:
    """Each of three has dialled both others."""
    found: dict[str, dict[str, Any]] = {}
    for src, own in AT.items():
        others = [dst for dst in AT if dst != src]
        dialled = {AT[dst]: None for dst in others}
        found[src] = {"looked": looked(), "pairs": [pair(src, dst) for dst in others], "dialled": dialled}
        found[src] |= {"untold": [], "listens": [own], "listening": "", "dialling": ""}
    return found


def deaf(told: dict[str, dict[str, Any]], node: str, words: str) -> dict[str, dict[str, Any]]:
    """The same where one could not listen."""
    told[node] |= {"listens": [], "listening": words}
    for name, said in told.items():
        if name != node:
            del said["dialled"][AT[node]]
    return told


def check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: dict[str, Any],
    *flags: str,
) -> tuple[int, str, Check]:  # fmt: skip
    """What the command makes of what check.yml hands over: exit code, text, check.json."""
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(said)))
    # Whether its code is the one that is here is another test's.
    monkeypatch.setattr("smolcluster.commands._doctor.code_hash", lambda: "c0de")
    monkeypatch.setattr("smolcluster.commands._doctor._torch", lambda: None)
    monkeypatch.setattr("smolcluster.commands._doctor._certificates", lambda *_: [])
    monkeypatch.setenv("COLUMNS", "250")
    code = run_app(app_of(), ["doctor", "-", "-i", str(LOCAL), "--out", str(tmp_path / "check"), *flags])
    out = capsys.readouterr().out
    return code, out, Check.model_validate_json((tmp_path / "check" / "check.json").read_text())


def test_all_were_tried(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, told = check(capsys, monkeypatch, tmp_path, {"machines": all_well(), "pairs_failed": ""})
    assert (code, told.untried, told.findings) == (0, (), ())
    assert "6 of 6 ways were tried, 6 got through" in out
    assert "nothing wrong was found" in out


def test_what_nothing_tells_the_address_of_is_counted_and_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = all_well()
    said["node1"] |= {"pairs": [], "dialled": {}, "listens": []}
    said["node1"]["untold"] = [untold("node1", "node2", "node1"), untold("node1", "node3", "node1")]
    for name in ("node2", "node3"):
        said[name]["pairs"] = [one for one in said[name]["pairs"] if one["dst"] != "node1"]
        said[name]["untold"] = [untold(name, "node1", "node1")]
        del said[name]["dialled"][AT["node1"]]
    code, out, told = check(capsys, monkeypatch, tmp_path, {"machines": said, "pairs_failed": ""})
    assert (code, len(told.ways), len(told.untried)) == (0, 2, 4)
    assert "2 of 6 ways were tried, 2 got through\n  4 not: node1 has no address on lan that anything tells" in out
    assert "nothing wrong was found" not in out
    [one] = told.findings
    assert (one.node, one.blocks) == ("node1", False)
    assert one.what == "has no address on lan that anything tells: 4 ways not tried"


@pytest.mark.parametrize(
    ("subnet", "fix"), [("", "write networks.lan.subnet in the inventory"), ("subnet: 10.0.0.0/24, ", "Wi-Fi")]
)
def test_what_helps_is_by_the_inventory(tmp_path: Path, subnet: str, fix: str) -> None:
    (tmp_path / "home.smol.yml").write_text(INVENTORY.replace("private:", f"{subnet}private:"))
    home = load_inventory(tmp_path / "home.smol.yml")
    [one] = read_untried(home, {"mini1": {"untold": [untold("mini1", "mini2", "mini2")]}})
    assert fix in one.fix
    assert untried_findings([one])[0].what.endswith("1 way not tried")


@pytest.mark.parametrize(
    ("words", "told", "fix"),
    [
        ("10.0.0.2: Address already in use", "Address already in use", "status.yml"),
        ("10.0.0.2: Cannot assign requested address\nnoise", "Cannot assign requested address", "network.yml"),
        ("sh: 1: /x/python: not found", "sh: 1: /x/python: not found", "setup.yml"),
        ("", "it gave no reason", "setup.yml"),
    ],
)
def test_a_listener_that_did_not_start_is_told_in_its_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, told: str, fix: str
) -> None:
    said = {"machines": deaf(all_well(), "node2", words), "pairs_failed": ""}
    code, out, made = check(capsys, monkeypatch, tmp_path, said)
    assert code == 0
    assert f"4 of 6 ways were tried, 4 got through\n  2 not: node2 could not listen at 10.0.0.2: {told}" in out
    [one] = made.findings
    assert (one.node, one.what) == ("node2", f"could not listen at 10.0.0.2: {told}: 2 ways not tried")
    assert fix in one.fix


def test_one_that_no_route_can_be_set_for() -> None:
    lost = {"untold": [untold("node1", "node3", "node1") | {"lost": "node3 has no route to node1.local"}]}
    [one] = untried_findings(read_untried(load_inventory(LOCAL), {"node1": lost}))
    assert one.what == "has no way to node3 and back: node3 has no route to node1.local: 1 way not tried"
    assert "network.yml --check --diff" in one.fix


def test_one_that_did_not_dial() -> None:
    said = all_well()
    said["node3"] |= {"dialled": {}, "dialling": "Failed to connect to the host via ssh"}
    found = untried_findings(read_untried(load_inventory(LOCAL), said))
    assert [(one.node, one.what) for one in found] == [
        ("node3", "did not dial: Failed to connect to the host via ssh: 2 ways not tried")
    ]


def test_a_windows_pc_is_counted_and_nothing_to_mend(tmp_path: Path) -> None:
    (tmp_path / "home.smol.yml").write_text(INVENTORY)
    at = {"mini1": "10.0.0.1", "win": "10.0.0.9"}
    said = {"mini1": {"pairs": [pair("mini1", "win", at)]}, "win": {"pairs": [pair("win", "mini1", at)]}}
    found = read_untried(load_inventory(tmp_path / "home.smol.yml"), said)
    assert [(one.src, one.dst, one.node) for one in found] == [("mini1", "win", "win"), ("win", "mini1", "win")]
    assert untried_findings(found) == []


def test_that_nobody_could_tell_who_is_to_reach_whom_is_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nobody = {"pairs": [], "dialled": {}, "untold": [], "listens": []}
    said = {name: one | nobody for name, one in all_well().items()}
    words = "note: a note\n1 problem.\n  1. -: is no JSON\n       fix: ask again"
    code, out, told = check(capsys, monkeypatch, tmp_path, {"machines": said, "pairs_failed": words})
    assert code == 0
    assert "from machine to machine: no way was tried" in out
    [one] = told.findings
    assert (one.what, one.fix) == (
        "cannot tell who is to reach whom, so no way was tried: 1 problem. 1. -: is no JSON", "ask again"
    )  # fmt: skip
    assert unknown_ways("localhost", "").what.endswith("it gave no reason")


@pytest.mark.parametrize(
    "said", [{"untold": [{"src": "node1"}]}, {"pairs": [{"src": "node1"}]}, {"listens": 3}, {"dialled": {"a": 1}}]
)
def test_an_answer_of_another_kind_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"run check\.yml again"):
        read_untried(load_inventory(LOCAL), {"node1": said})


def test_what_was_not_tried_is_in_check_json() -> None:
    one = Untried(src="a", dst="b", node="b", why="is off")
    assert untried_findings([one]) == []
    assert untried_findings([one.model_copy(update={"fix": "on"})]) == [
        Finding(node="b", what="is off: 1 way not tried", fix="on")
    ]


def test_auto_is_all_machines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether speeds were measured or not: no strategy's row is a complaint about the word."""
    said = {"machines": all_well(), "pairs_failed": ""}
    code, _, told = check(capsys, monkeypatch, tmp_path, said, "--nodes", "auto")
    assert (code, [machine.name for machine in told.machines]) == (0, list(AT))
    (tmp_path / "profile.json").write_text('{"schema": 1, "speeds": {"node1": 3000, "node2": 3000, "node3": 600}}')
    flags = ("--nodes", "auto", "--profile", str(tmp_path / "profile.json"))
    code, _, told = check(capsys, monkeypatch, tmp_path, said, *flags)
    rows = {row.strategy: row for row in told.predictions}
    assert {"classicdp", "fsdp 0", "diloco", "single"} <= {name for name, row in rows.items() if row.tokens_per_s}
    assert not [row.why_not for row in rows.values() if "auto" in row.why_not]
