"""What check.yml makes of the machines' dialling each other."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from smolcluster.doctor.between import read_ways, unreached
from smolcluster.doctor.machines import Machine
from smolcluster.doctor.report import Check, Predicted
from smolcluster.errors import ConfigError
from smolcluster.observe.checked import show

AT = {"mini1": "10.0.0.1", "mini2": "10.0.0.2", "pi5": "192.168.50.2"}
SILENT = "nothing came back in 5 s"


def told(lost: set[tuple[str, str]], deaf: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]]:
    """All ways between the three; `deaf` are those where nobody listened."""
    found = {}
    for src in AT:
        pairs = [
            {"src": src, "dst": dst, "source": AT[src], "destination": AT[dst], "passes": [], "networks": ["cable"],
             "speed_mbps": 1000, "mtu": 1500}
            for dst in AT
            if dst != src
        ]  # fmt: skip
        dialled = {AT[dst]: SILENT if (src, dst) in lost else None for dst in AT if dst not in (src, *deaf)}
        found[src] = {"pairs": pairs, "dialled": dialled}
    return found


def test_who_reaches_everybody() -> None:
    ways = read_ways(told(set()))
    assert [(way.src, way.dst) for way in ways] == [
        ("mini1", "mini2"), ("mini1", "pi5"), ("mini2", "mini1"), ("mini2", "pi5"), ("pi5", "mini1"), ("pi5", "mini2"),
    ]  # fmt: skip
    assert unreached(ways) == []


def test_one_that_nobody_reaches_and_one_way_that_is_shut() -> None:
    lost = {("mini1", "pi5"), ("mini2", "pi5"), ("pi5", "mini1")}
    found = unreached(read_ways(told(lost)))
    assert [(one.node, one.what, one.blocks) for one in found] == [
        ("pi5", f"is not reached by anybody at 192.168.50.2 on cable: {SILENT}", True),
        ("mini1", f"is not reached by pi5 at 10.0.0.1 on cable: {SILENT}", True),
    ]
    assert "setup.yml --tags firewall" in found[0].fix


def test_where_nobody_could_listen_nothing_is_told() -> None:
    ways = read_ways(told({("mini1", "pi5")}, frozenset({"pi5"})))
    assert {way.dst for way in ways} == {"mini1", "mini2"}
    assert unreached(ways) == []
    assert read_ways({"mini1": {"why": "it is off"}}) == []


def test_pairs_of_another_version_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"run check\.yml again"):
        read_ways({"mini1": {"pairs": [{"src": "mini1"}], "dialled": {"10.0.0.2": None}}})


WRONG = (3, True, "x", [1], {"a": 1}, [[]], [{}])
PAIR = told(set())["mini1"]["pairs"][0]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        *[({"pairs": wrong, "dialled": {"10.0.0.2": None}}, "pairs: ") for wrong in WRONG],
        *[({"pairs": [wrong], "dialled": {"10.0.0.2": None}}, "pairs: ") for wrong in WRONG],
        *[({"pairs": [PAIR], "dialled": wrong}, "dialled: ") for wrong in WRONG],
        *[({"pairs": [PAIR], "dialled": {"10.0.0.2": wrong}}, "dialled: ") for wrong in (3, True, [1], {"a": 1})],
        *[({"pairs": [PAIR | {key: None}], "dialled": {"10.0.0.2": None}}, "pairs: ") for key in PAIR],
        ({"pairs": [PAIR | {"networks": []}], "dialled": {"10.0.0.2": SILENT}}, "pairs: "),
        ({"pairs": 3, "dialled": [1]}, "pairs: is no list"),
    ],
)
def test_what_is_of_another_kind_is_refused(said: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"mini1: {what}"):
        read_ways({"mini1": said})


def test_the_table_counts_the_ways_and_tells_each_machines_memory() -> None:
    few, many = {"mini1": 812, "pi5": 640, "mini2": 812}, {f"pi{number}": 100 + number for number in range(9)}
    check = Check(
        time="2026-11-30T00:00:00Z",
        cluster="home",
        counts="tokens",
        machines=(Machine(name="mini1", kind="macos", why_not="it is off"),),
        findings=(),
        ways=tuple(read_ways(told({("mini1", "pi5")}))),
        measured={"date": None, "old": False, "speeds": {}},
        strategy="fsdp",
        predictions=[
            Predicted(strategy=name, tokens_per_s=1.0, memory_mb=each)
            for name, each in (("fsdp", few), ("mp", many), ("edp", {"a": 1200, "b": 1200}))
        ],
        alone=None,
        serving=None,
        gains=(),
    )
    assert Check.model_validate(json.loads(check.model_dump_json(by_alias=True))) == check
    console = Console(file=io.StringIO(), width=200)
    show(console, check, "measure")
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert "from machine to machine, at a run's addresses: 6 of 6 ways were tried, 5 got through" in out
    assert "pi5 640, mini1 812, mini2 812 MB" in out
    assert "pi0 100, ..., pi8 108 MB" in out
    assert "1,200 MB" in out
