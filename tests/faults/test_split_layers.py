"""A stage of mp is killed, or its machine lost for good: its layers lie in checkpoints, and training is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smolcluster.observe.report import summary_of
from smolcluster.plan.types import Plan
from smolcluster.runtime.generation import read_generation
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.train.train_folders import plan_of, run_spec

from .crew import crew, everywhere, lose, others_ended, same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BATCH, STEPS = 6, 80
STAGES = ((0, 1), (1, 2), (2, 4))


def made(elastic: bool = False) -> Plan:
    run = run_spec("mp", (BATCH, 0, 0), max_steps=STEPS, eval_steps=40, grad_accumulation=4)
    settings = {
        "model": run.model.model_copy(update={"num_layers": STAGES[-1][1]}),
        "checkpoint": CheckpointSpec(every_steps=5, replicas=2),
        "recovery": RecoverySpec(max_restarts=3, elastic=elastic, elastic_wait_s=3),
    }
    plan = plan_of(run.model_copy(update=settings), (BATCH, 0, 0))
    return plan.model_copy(update={"shape": "CHAIN", "stages": STAGES})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, torch.Tensor]:
    with crew(tmp_path_factory.mktemp("undisturbed") / "run", made(), data) as run:
        run.start()
        assert [job.state for job in run.ended()] == ["completed"] * 3, run.said()
        return run.model()


@pytest.mark.core
def test_a_killed_stage_changes_no_bit(tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    with crew(tmp_path / "run", made(), data) as run:
        run.start()
        run.until(lambda: run.newest_checkpoint() >= 5, "a checkpoint")
        run.kill_rank(1)
        jobs = run.ended()
        assert [job.state for job in jobs] == ["completed"] * 3, run.said()
        assert [job.restarts for job in jobs] == [1, 1, 1]
        assert same(run.model(), undisturbed)


@pytest.mark.parametrize("lost", [0, 2])
def test_others_share_the_layers_of_a_lost_machine(
    tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor], lost: int
) -> None:
    members = tuple(rank for rank in range(3) if rank != lost)
    with crew(tmp_path / "run", made(elastic=True), data) as run:
        run.start()
        run.until(lambda: everywhere(run), "a checkpoint that all know of")
        lose(run, f"node{lost + 1}")
        others_ended(run)
        for rank in members:
            job = run.job(f"node{rank + 1}")
            assert (job.state, job.generation) == ("completed", 1), run.said()
            note = read_generation(run.folder, f"node{rank + 1}", rank)
            assert note is not None
            assert note.members == members
        told = summary_of(run.folder.path)
        assert (told.steps, told.tokens) == (STEPS, STEPS * BATCH * 16)
        for name, value in run.model().items():
            torch.testing.assert_close(value, undisturbed[name], rtol=0, atol=1e-3)
