"""The doctor, without any machine: what it reads, what it finds wrong, what it would change."""

from __future__ import annotations

import ctypes
import datetime
import io
import json
from pathlib import Path
from typing import Any

import pytest

from smolcluster import __version__
from smolcluster.cli import app_of, run_app
from smolcluster.codehash import code_hash
from smolcluster.doctor.look import look, main, processor, throttled, windows_memory_mb
from smolcluster.doctor.machines import Looked, Machine, findings_of, read_machines
from smolcluster.doctor.report import measurement_of, slow_links
from smolcluster.errors import ConfigError
from smolcluster.plan.profile import LinkSpeed, Profile
from smolcluster.spec.inventory import load_inventory

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
HOME = ROOT / "inventory" / "home.smol.yml"
NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)


def looked(**changes: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "schema": 1,
        "system": "Linux 6 x86_64",
        "versions": {"python": "3.11.2", "smolcluster": __version__, "torch": "2.13.0", "code": "c0de"},
        "clock": {"asked": 100.0, "here": 100.5, "answered": 101.0},
        "cores": 4,
        "load": 0.5,
        "disk_free_mb": 50_000,
        "memory_mb": 16_000,
        "memory_free_mb": 12_000,
        "temperature_c": 45.0,
        "throttled": "",
    }
    return said | changes


def findings(**changes: Any) -> list[tuple[str, bool]]:
    cluster = load_inventory(LOCAL)
    rows = read_machines(cluster, {"node1": {"looked": looked(**changes)}}, ("node1",))
    return [(one.what, one.blocks) for one in findings_of(cluster, rows, "2.13.0+cpu", "c0de")]


def test_a_machine_that_is_well() -> None:
    assert findings() == []
    # How long the question took counts for the clock.
    assert findings(clock={"asked": 100.0, "here": 111.9, "answered": 111.0}) == []


@pytest.mark.parametrize(
    ("changes", "words", "blocks"),
    [
        ({"versions": {"python": None, "smolcluster": None, "torch": None}}, "has no Python", True),
        ({"versions": {"python": "3.11", "smolcluster": None, "torch": None}}, "has no smolcluster", True),
        ({"versions": {"python": "3.11", "smolcluster": "0.0.1", "torch": "2.13.0"}}, "has smolcluster 0.0.1", True),
        (
            {"versions": {"python": "3.11", "smolcluster": __version__, "torch": "2.13.0", "code": "0ther"}},
            f"its smolcluster {__version__} is not the code that is here",
            True,
        ),
        ({"versions": {"python": "3.11", "smolcluster": __version__, "torch": None}}, "has no torch", True),
        ({"versions": {"python": "3.11", "smolcluster": __version__, "torch": "2.12.0"}}, "has torch 2.12.0", False),
        ({"clock": {"asked": 100.0, "here": 160.0, "answered": 101.0}}, "its clock is off by +59 s", False),
        ({"clock": {"asked": 100.0, "here": 40.0, "answered": 101.0}}, "its clock is off by -60 s", False),
        ({"clock": {"asked": 100.0, "here": 103.0, "answered": 101.0}}, "its clock is off by +2 s", False),
        ({"disk_free_mb": 100}, "100 MB of disk left", False),
        ({"temperature_c": 91.0}, "is at 91 °C", False),
        ({"throttled": "too little voltage"}, "is slowed down: too little voltage", False),
        ({"load": 9.0}, "is busy", False),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, Any], words: str, blocks: bool) -> None:
    [(what, stops)] = findings(**changes)
    assert words in what
    assert stops == blocks


def test_what_a_machine_cannot_tell_is_no_finding() -> None:
    unknown = dict.fromkeys(
        ("cores", "load", "disk_free_mb", "memory_mb", "memory_free_mb", "temperature_c", "throttled")
    )
    assert findings(**unknown) == []


def test_a_machine_that_is_off_is_a_row_and_one_that_nobody_logs_into_no_finding() -> None:
    cluster = load_inventory(HOME)
    rows = read_machines(cluster, {"mini1": {"looked": looked()}, "mini2": {"looked": None, "why": "it is off"}})
    by_name = {row.name: row for row in rows}
    assert by_name["mini1"].looked is not None
    assert by_name["mini2"].why_not == "it is off"
    assert by_name["ipad"].why_not == "nobody logs into it"
    told = findings_of(cluster, rows, None)
    assert [one.what for one in told if one.node == "mini2"] == ["it is off"]
    assert not [one for one in told if one.node == "ipad"]


def test_half_a_character_is_no_reason_to_fail() -> None:
    [row] = read_machines(load_inventory(LOCAL), {"node1": {"why": "off \ud800"}}, ("node1",))
    assert row.why_not == "off ?"


def at(addresses: dict[str, str] | None) -> list[tuple[str, str]]:
    """What is told of the Pi behind the Macs, with these addresses."""
    row = Machine(name="pi5", kind="linux", looked=Looked.model_validate(looked()), addresses=addresses)
    return [(one.what, one.fix) for one in findings_of(load_inventory(HOME), [row], None)]


def test_addresses_that_a_machine_has_not_got() -> None:
    [cable] = [each for each in load_inventory(HOME).networks if each.members.get("pi5") == "192.168.50.2"]
    assert at({cable.name: "192.168.50.2"}) == []
    assert at(None) == [], "it did not tell"
    where = f"on {cable.name}, the inventory says 192.168.50.2"
    assert at({cable.name: "192.168.50.9"}) == [
        (f"has 192.168.50.9 {where}", "ansible-playbook network.yml --check --diff")
    ]
    [(what, fix)] = at({})
    assert what == f"has no address {where}"
    assert fix == "look at its cable or Wi-Fi; then ansible-playbook network.yml --check --diff"


def test_memory_that_the_inventory_makes_up() -> None:
    cluster = load_inventory(HOME)
    nodes = tuple(one.model_copy(update={"memory_mb": 64_000}) if one.name == "pi5" else one for one in cluster.nodes)
    row = Machine(name="pi5", kind="linux", looked=Looked.model_validate(looked()))
    [told] = findings_of(cluster.model_copy(update={"nodes": nodes}), [row], None)
    assert (told.what, told.fix) == ("has 16,000 MB of memory, the inventory says 64,000", "write what it has")


@pytest.mark.parametrize(
    "said", [{"looked": looked(schema=2)}, {"looked": looked(cores="many")}, {"looked": {"schema": 1}}, "off"]
)
def test_an_answer_of_another_kind_is_refused(said: Any) -> None:
    with pytest.raises(ConfigError, match=r"run check\.yml again"):
        read_machines(load_inventory(LOCAL), {"node1": said})


def test_looking_at_this_machine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([sys.executable, str(tmp_path / "runs"), "1.5", "node1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] is not None
    assert found["clock"]["asked"] == 1.5
    assert found["disk_free_mb"] > 0
    assert found["versions"]["code"] == code_hash()
    assert found["certificate"]["what"].startswith("this node has no certificate of this cluster")
    nothing = dict.fromkeys(("python", "smolcluster", "torch", "code"))
    without = look("/nowhere/python", "~", 0.0, "node1")
    assert (without["versions"], without["certificate"]) == (nothing, None)
    assert main(["python"]) == 2


def test_memory_as_windows_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        answer = 1

        @classmethod
        def GlobalMemoryStatusEx(cls, given: Any) -> int:
            status = given._obj
            assert status.length == ctypes.sizeof(status) == 64
            status.bytes[0], status.bytes[1] = 16 << 30, 5 << 30
            return cls.answer

    monkeypatch.setattr(ctypes, "WinDLL", lambda name: Kernel, raising=False)
    assert windows_memory_mb() == (16_384, 5_120)
    Kernel.answer = 0
    assert windows_memory_mb() == (None, None)


@pytest.mark.parametrize(
    ("command", "answer", "told"),
    [
        ("vcgencmd", "throttled=0x0\n", ""),
        ("vcgencmd", "throttled=0x50005\n", "too little voltage, throttled"),
        ("vcgencmd", "throttled=0x50000\n", ""),
        ("pmset", "CPU_Scheduler_Limit = 100\nCPU_Speed_Limit = 70\n", "clock limited to 70 %"),
        ("pmset", "Note: No thermal warning level has been recorded\n", ""),
        ("nothing", "", None),
    ],
)
def test_throttling_in_each_systems_words(
    monkeypatch: pytest.MonkeyPatch, command: str, answer: str, told: str | None
) -> None:
    monkeypatch.setattr("smolcluster.doctor.look.ask", lambda asked: answer if asked[0] == command else None)
    assert throttled() == told


@pytest.mark.parametrize("answer", ["Apple M4\n", None])
def test_a_mac_names_its_chip(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    key = ["sysctl", "-n", "machdep.cpu.brand_string"]
    monkeypatch.setattr("smolcluster.doctor.look.ask", lambda asked: answer if asked == key else None)
    monkeypatch.setattr("smolcluster.doctor.look.sys.platform", "darwin")
    # What Python knows of such a Mac.
    monkeypatch.setattr("smolcluster.doctor.look.platform.processor", lambda: "arm")
    assert processor() == ("Apple M4" if answer else "arm")


def test_links_that_are_far_slower_than_the_inventory_says() -> None:
    links = (
        LinkSpeed(src="mini1", dst="pi5", mbps=90, rtt_ms=1),
        LinkSpeed(src="pi5", dst="mini1", mbps=900, rtt_ms=1),
        LinkSpeed(src="gone", dst="mini1", mbps=1, rtt_ms=1),
    )
    [one] = slow_links(load_inventory(HOME), Profile(speeds={"mini1": 1.0}, links=links))
    assert one.node == "mini1"
    assert one.what == "to pi5: 90 Mbit/s, the inventory says 1,000 of ethernet_pi5"


# -- the command ------------------------------------------------------------------------------------------------------


def doctor(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = run_app(app_of(), ["doctor", "-i", str(LOCAL), *flags])
    told = capsys.readouterr()
    return code, told.out, told.err


def by_hand(tmp_path: Path, text: str) -> str:
    (tmp_path / "profile.json").write_text(text)
    return str(tmp_path / "profile.json")


SPEEDS = '{"schema": 1, "speeds": {"node1": 3000, "node2": 3000, "node3": 600}}'


def test_without_a_profile_nothing_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys)
    assert code == 0
    assert "nothing was measured, so nothing is predicted: ansible-playbook check.yml -e" in out


def test_what_to_call_next_names_the_inventory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "my own.smol.yml"
    own.write_text(LOCAL.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    flags = ("doctor", "-i", own.name, "--out", str(tmp_path / "check"))
    assert run_app(app_of(), [*flags]) == 0
    measure = "ansible-playbook -i 'my own.smol.yml' check.yml -e profile=true"
    assert f"nothing is predicted: {measure}" in capsys.readouterr().out
    told = json.loads((tmp_path / "check" / "check.json").read_text())
    assert {row["why_not"] for row in told["predictions"]} == {f"nothing was measured: {measure}"}
    assert told["serving"]["why_not"].endswith(f"decode: {measure}")


def test_every_strategy_is_predicted_and_the_best_change_comes_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ("--profile", by_hand(tmp_path, SPEEDS), "--override", "staleness_bound=0", "--strategy", "classicdp")
    code, out, _ = doctor(capsys, *flags, "--out", str(tmp_path / "check"))
    assert code == 0
    told = json.loads((tmp_path / "check" / "check.json").read_text())
    assert told["schema"] == 1
    labels = {row["strategy"]: row for row in told["predictions"]}
    assert {"classicdp", "fsdp 0", "fsdp 1", "fsdp 2", "fsdp 3", "single"} <= set(labels)
    assert told["strategy"] == "classicdp"
    before = labels["classicdp"]["tokens_per_s"]
    assert before == pytest.approx(3 * 600, rel=0.02), "the slowest is everybody's pace"
    gains = told["gains"]
    assert all(one["tokens_per_s_before"] == before for one in gains)
    after = [one["tokens_per_s_after"] for one in gains]
    assert after == sorted(after, reverse=True)
    changes = {one["change"]: one for one in gains}
    assert changes["without node3"]["tokens_per_s_after"] == pytest.approx(6000, rel=0.02)
    assert changes["without node3"]["how"] == "-e nodes=node1,node2"
    assert changes["shares of the batch by speed"]["tokens_per_s_after"] > 3000
    assert told["alone"]["node"] in ("node1", "node2")
    assert "what to change to gain most" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 1, "speeds": {"node1": 30', "profile.json"),
        ('{"schema": 7, "speeds": {"node1": 3}}', "is version 7"),
        ('{"schema": 1, "speeds": {"node1": -3}}', "greater than 0"),
    ],
)
def test_a_bad_profile_is_told_in_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, words: str
) -> None:
    code, _, err = doctor(capsys, "--profile", by_hand(tmp_path, text))
    assert code == 2
    assert words in err
    assert "measure again" in err


def test_a_machine_without_a_speed_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    profile = by_hand(tmp_path, '{"schema": 1, "speeds": {"node1": 3, "node2": 2}}')
    code, _, _ = doctor(capsys, "--profile", profile, "--out", str(tmp_path / "check"))
    assert code == 0
    told = json.loads((tmp_path / "check" / "check.json").read_text())
    whole = [row for row in told["predictions"] if row["strategy"] != "single"]
    assert all("has no speed of node3" in row["why_not"] for row in whole)


def test_a_blocked_machine_is_exit_code_3(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"machines": {"node1": {"looked": looked()}, "node2": {"looked": None, "why": "cannot be reached"}}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(said)))
    code, out, _ = doctor(capsys, "-", "--nodes", "node1,node2")
    assert code == 3
    assert "cannot be reached" in out
    assert "node3" not in out


@pytest.mark.parametrize("text", ["", "{", "[]", '{"machines": 3}'])
def test_half_written_answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    code, _, err = doctor(capsys, "-")
    assert code == 2
    assert "check.yml" in err


def test_an_unknown_machine_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = doctor(capsys, "--nodes", "node1,nod2")
    assert code == 2
    assert "did you mean node2?" in err


def test_old_speeds_are_told_to_be_old() -> None:
    assert not measurement_of(Profile(speeds={"a": 1.0}), NOW, 7).old
