"""A rank is killed while ranks are steps apart: all begin again from the last fence that was saved, and end equal."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from smolcluster.observe.report import summary_of
from smolcluster.plan.types import Plan
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.steps import read_metrics
from tests.train.train_folders import plan_of, run_spec

from .crew import crew

SHARES = (3, 2)
STEPS, BOUND = 120, 4


def made(strategy: str, stage: int) -> Plan:
    run = run_spec(strategy, SHARES, stage, max_steps=STEPS, eval_steps=60)
    settings = {
        "checkpoint": CheckpointSpec(every_steps=10, keep=2), "recovery": RecoverySpec(max_restarts=5),
        "staleness_bound": BOUND,
    }  # fmt: skip
    return plan_of(run.model_copy(update=settings), SHARES)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("strategy", "stage"), [("fsdp", 1), ("classicdp", 0)])
def test_a_killed_rank(tmp_path: Path, data: Path, strategy: str, stage: int) -> None:
    dice = random.Random(3)
    with crew(tmp_path / "run", made(strategy, stage), data) as run:
        run.start()
        step = dice.randrange(20, 60)
        run.until(lambda: run.step(0) >= step, f"step {step}")
        run.kill_rank(1)
        assert [job.state for job in run.ended()] == ["completed"] * 2, run.said()
        assert max(job.restarts for job in run.ended()) == 1
        told = summary_of(run.path)
        assert (told.status, told.steps, told.generation) == ("completed", STEPS, 1)
        assert told.tokens == STEPS * sum(SHARES) * 16
        assert told.staleness_max <= BOUND
        assert told.val_loss is not None
        assert told.val_loss_first is not None
        assert told.val_loss < told.val_loss_first
        steps = [read_metrics(run.folder.metrics(rank.node, rank.rank))[0] for rank in run.plan.ranks]
        for mine in steps:
            assert [record.step for record in mine] == list(range(1, STEPS + 1))
            assert all(len(record.lags or ()) == 2 for record in mine)
        # What all know of a fence is the same on both.
        fences = [[(r.step, r.loss, r.val_loss) for r in mine if r.step % 10 == 0] for mine in steps]
        assert fences[0] == fences[1]
