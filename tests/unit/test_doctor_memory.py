"""The memory that machines were found to have, where the inventory does not say it: what fits is told before a run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from smolcluster import __version__
from smolcluster.cli import app_of, run_app
from smolcluster.doctor.machines import Looked, Machine
from smolcluster.doctor.memory import found_mb, with_memory, without_memory
from smolcluster.plan.room import PROCESS_MB
from smolcluster.spec.inventory import load_inventory

PAIR = """\
schema: 1
name: pair
machines:
  pc: {{connection: local{pc}}}
  pi4: {{connection: local{pi4}}}
networks:
  lan: {{medium: ethernet, speed_mbps: 1000, private: true, members: {{pc: 127.0.0.2, pi4: 127.0.0.3}}}}
defaults: {{port: 65430, staleness_bound: 0}}
"""
# tests/unit/test_plan_room.py: half of its parameters are blocks.
DEEP = ("--override", "model.num_layers=24,training.batch_size=1")
STATE_MB = 486
LITTLE_MB = 700


def looked(memory_mb: int | None = 16_000) -> dict[str, Any]:
    nothing = dict.fromkeys(("cores", "load", "disk_free_mb", "memory_free_mb", "temperature_c", "throttled"))
    versions = {"python": "3.11.2", "smolcluster": __version__, "torch": "2.13.0", "code": None}
    clock = {"asked": 100.0, "here": 100.5, "answered": 101.0}
    return {"schema": 1, "system": "Linux", "versions": versions, "clock": clock, "memory_mb": memory_mb, **nothing}


class Pair:
    """The doctor, told that pc has much memory and pi4 little."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.capsys, self.monkeypatch = folder, capsys, monkeypatch
        self.inventory = folder / "pair.smol.yml"
        self.written()
        self.monkeypatch.setenv("COLUMNS", "250")
        (folder / "profile.json").write_text('{"schema": 1, "speeds": {"pc": 3000, "pi4": 3000}}')

    def written(self, pc: str = "", pi4: str = "") -> None:
        self.inventory.write_text(PAIR.format(pc=pc, pi4=pi4))

    def check(self, strategy: str, *flags: str, pc: int = 16_000, pi4: int | None = LITTLE_MB) -> dict[str, Any]:
        said = {"pc": {"looked": looked(memory_mb=pc)}, "pi4": {"looked": looked(memory_mb=pi4)}}
        self.monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"machines": said})))
        out = self.folder / "check"
        asked = ("-i", str(self.inventory), "--strategy", strategy, "--out", str(out), *DEEP, *flags)
        self.code = run_app(app_of(), ["doctor", "-", *asked])
        self.said = self.capsys.readouterr()
        assert self.code in (0, 3), self.said.err
        return dict(json.loads((out / "check.json").read_text()))


@pytest.fixture
def pair(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Pair:
    return Pair(tmp_path, capsys, monkeypatch)


def rows(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["strategy"]: row for row in told["predictions"]}


def blocking(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["node"], one["what"], one["fix"]) for one in told["findings"] if one["blocks"]]


def test_what_was_asked_for_and_does_not_fit_keeps_a_run_from_starting(pair: Pair) -> None:
    told = pair.check("classicdp")
    assert pair.code == 3
    [(node, what, fix)] = blocking(told)
    assert node == "pi4"
    assert what == (
        f"classicdp does not fit: the model's state needs {STATE_MB} MB there and its process {PROCESS_MB}, and it has"
        f" {LITTLE_MB} (found there; the inventory does not say)"
    )
    assert "leave the machine out with --nodes" in fix
    assert told["gains"] == []
    # The table is there, and tells which strategies do fit.
    found = rows(told)
    assert found["classicdp"]["why_not"].startswith("does not fit on pi4: the model's state needs")
    assert found["classicdp"]["tokens_per_s"] is None
    assert {label for label, row in found.items() if row["tokens_per_s"]} == {
        "single",
        "mp",
        "fsdp 1",
        "fsdp 2",
        "fsdp 3",
    }
    assert "does not fit" in pair.said.out


def test_others_that_do_not_fit_have_no_figures_and_are_no_gain(pair: Pair) -> None:
    told = pair.check("mp")
    assert (pair.code, blocking(told)) == (0, [])
    assert rows(told)["diloco"]["why_not"].startswith("does not fit on pi4")
    changes = {one["change"] for one in told["gains"]}
    assert changes
    assert not changes & {"strategy diloco", "strategy classicdp", "strategy fsdp 0", "strategy edp"}
    # With enough it would be one.
    assert "strategy diloco" in {one["change"] for one in pair.check("mp", pi4=16_000)["gains"]}


def test_a_machine_alone_has_to_have_room_too(pair: Pair) -> None:
    least = STATE_MB + 1 + PROCESS_MB
    (pair.folder / "profile.json").write_text('{"schema": 1, "speeds": {"pc": 30000, "pi4": 3000}}')
    alone = pair.check("fsdp", "--override", "fsdp_stage=2", pc=least, pi4=least)
    assert alone["alone"]["node"] == "pc"
    assert any(one["change"] == "pc alone" for one in alone["gains"])
    # pi4 has room for all of it, and pc for a share.
    only = pair.check("fsdp", "--override", "fsdp_stage=2", pc=least - 30, pi4=least)
    assert only["alone"]["node"] == "pi4"
    nowhere = pair.check("fsdp", "--override", "fsdp_stage=2", pc=least - 30, pi4=least - 30)
    assert nowhere["alone"] is None
    assert not any(one["change"].endswith(" alone") for one in nowhere["gains"])


def test_a_format_that_does_not_fit_is_no_gain(pair: Pair) -> None:
    # int8 keeps what it has not sent yet, as much again as the parameters.
    roomy, tight = (pair.check("classicdp", pi4=mb) for mb in (16_000, STATE_MB + 1 + PROCESS_MB))
    assert {"wire int8", "wire bf16"} <= {one["change"] for one in roomy["gains"]}
    assert "wire bf16" in {one["change"] for one in tight["gains"]}
    assert "wire int8" not in {one["change"] for one in tight["gains"]}


def test_nothing_is_refused_of_machines_that_cannot_tell_or_have_enough(pair: Pair) -> None:
    for memory in (None, 16_000):
        told = pair.check("classicdp", pi4=memory)
        assert (pair.code, blocking(told)) == (0, [])
        assert rows(told)["classicdp"]["tokens_per_s"]


def test_what_the_inventory_says_is_a_finding_too_and_is_its_word(pair: Pair) -> None:
    pair.written(pi4=f", memory_mb: {LITTLE_MB}")
    told = pair.check("classicdp", pi4=16_000)
    assert pair.code == 3
    [(node, what, _)] = blocking(told)
    assert node == "pi4"
    assert what.endswith(f"and it has {LITTLE_MB}")


def test_layers_that_a_plan_would_give_without_knowing_of_the_memory(pair: Pair) -> None:
    # Half of the model takes more than this; a few layers and an end of it do not.
    little, deeper = 700, ("--override", "model.num_layers=96")
    told = pair.check("mp", *deeper, pi4=little)
    assert pair.code == 3
    [(node, what, fix)] = blocking(told)
    assert node == "pi4"
    assert what.startswith(f"has {little} MB of memory, which the inventory does not say: mp would be planned to need ")
    assert fix == f"write memory_mb: {little} for it in the inventory: then the plan goes by it"
    predicted = rows(told)["mp"]["memory_mb"]
    assert predicted["pi4"] <= little < predicted["pc"], "it is predicted as it would be with that line"
    pair.written(pi4=f", memory_mb: {little}")
    written = pair.check("mp", *deeper, pi4=little)
    assert (pair.code, blocking(written)) == (0, [])
    assert rows(written)["mp"] == rows(told)["mp"]
    # Nobody asked for it: nothing is kept from starting.
    pair.written()
    other = pair.check("single", "--nodes", "pc,pi4", *deeper, pi4=little)
    assert (pair.code, blocking(other)) == (0, [])
    assert [one["node"] for one in other["findings"] if "mp would be planned" in one["what"]] == ["pi4"]


def test_a_model_that_fits_nowhere_is_told_of_all_machines(pair: Pair) -> None:
    told = pair.check("mp", pc=410, pi4=410)
    [(node, what, _)] = blocking(told)
    assert node == "pc, pi4"
    assert what.endswith("that fits: pc 410, pi4 410 (found there; the inventory does not say)")


def test_a_bad_config_is_still_refused(pair: Pair) -> None:
    pair.monkeypatch.setattr("sys.stdin", io.StringIO('{"machines": {}}'))
    assert run_app(app_of(), ["doctor", "-", "-i", str(pair.inventory), "--override", "training.batchsize=1"]) == 2
    assert "did you mean" in pair.capsys.readouterr().err


def test_only_what_the_inventory_does_not_say_is_taken(pair: Pair) -> None:
    pair.written(pc=", memory_mb: 8000")
    cluster = load_inventory(pair.inventory)
    machines = [Machine(name=name, kind="linux", looked=Looked.model_validate(looked())) for name in ("pc", "pi4")]
    found = found_mb(cluster, machines)
    assert found == {"pi4": 16_000}
    assert found_mb(cluster, [Machine(name="pi4", kind="linux", why_not="is off")]) == {}
    known = with_memory(cluster, found)
    assert [node.memory_mb for node in known.nodes] == [8000, 16_000]
    assert [node.memory_mb for node in without_memory(known).nodes] == [None, None]
