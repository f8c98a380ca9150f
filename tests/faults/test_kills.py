"""kill -9 of ranks and supervisors: the run goes on by itself, and its weights are those of an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smolcluster.spec.run import CheckpointSpec
from tests.train.train_folders import plan_of, run_spec

from .crew import crew, same

SHARES = (3, 2)


def plan(strategy: str = "fsdp", stage: int = 1, **training):
    run = run_spec(strategy, SHARES, stage, max_steps=60, eval_steps=30, **training)
    return plan_of(run.model_copy(update={"checkpoint": CheckpointSpec(every_steps=5)}), SHARES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, torch.Tensor]:
    with crew(tmp_path_factory.mktemp("undisturbed") / "run", plan(), data) as run:
        run.start()
        assert [job.state for job in run.ended()] == ["completed"] * 2, run.said()
        return run.model()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank(tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor], victim: int) -> None:
    with crew(tmp_path / "run", plan(), data) as run:
        run.start()
        run.until(lambda: run.newest_checkpoint() > 0, "a checkpoint")
        run.kill_rank(victim)
        jobs = run.ended()
        assert [(job.state, job.restarts, job.generation) for job in jobs] == [("completed", 1, 1)] * 2, run.said()
        assert [job.restart_ours for job in jobs] == [victim == 0, victim == 1]
        assert same(run.model(), undisturbed)
        assert all(job.resumed_step is not None and job.resumed_step >= 5 for job in jobs)
