"""A rank that outlives its group keeps what it goes on with, and nothing else."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn
from train_folders import plan_of, run_spec, write_run

from smolcluster.errors import PeerLostError
from smolcluster.jobs.nodefile import load_node
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.results import read_result
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.strategies.base import Feed, StepResult, Strategy, build_strategy
from smolcluster.strategies.diloco.rounds import DiLoCo
from smolcluster.train import part, rank

FAILURES, STEPS = 4, 24


@pytest.fixture
def lazy_collector() -> Iterator[None]:
    """Python frees no cycle by itself, as it may not for long."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("lazy_collector")
def test_nothing_of_the_groups_that_failed_is_left(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(run_spec("diloco", (8,), max_steps=STEPS).model_copy(update={"outer_every": 2}), (8,))
    [node_yaml] = write_run(tmp_path, plan, data, sys.executable)
    made: list[weakref.ref[Strategy]] = []
    alive: list[int] = []
    train_round = DiLoCo.train_round

    def build(context: RunContext, model: nn.Module) -> Strategy:
        strategy = build_strategy(context, model)
        alive.append(sum(one() is not None for one in made))
        made.append(weakref.ref(strategy))
        return strategy

    def fails_in_its_third(self: DiLoCo, feed: Feed) -> StepResult:
        if self.rounds_done == 2 * len(made) and len(made) <= FAILURES:
            raise PeerLostError("the test")
        return train_round(self, feed)

    monkeypatch.setattr(rank, "build_strategy", build)
    monkeypatch.setattr(DiLoCo, "train_round", fails_in_its_third)
    assert part.train_part(load_node(node_yaml), plan, plan.ranks[0], lambda: False) == 0
    assert alive == [0] * (FAILURES + 1)
    result = read_result(RunFolder(tmp_path), "node1", 0)
    assert result is not None
    assert (result.status, result.steps) == ("completed", STEPS)
