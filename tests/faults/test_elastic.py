"""A node is lost for good: the others go on without it, from checkpoints that lie on two nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smolcluster.observe.report import summary_of
from smolcluster.plan.types import Plan
from smolcluster.runtime.generation import read_generation
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.train.train_folders import plan_of, run_spec

from .crew import crew, everywhere, lose, others_ended

SHARES = (3, 2, 2)
STEPS = 150


def made(replicas: int = 2, elastic: bool = True) -> Plan:
    run = run_spec("fsdp", SHARES, 1, max_steps=STEPS, eval_steps=50)
    recovery = RecoverySpec(max_restarts=2, elastic=elastic, elastic_wait_s=3)
    settings = {"checkpoint": CheckpointSpec(every_steps=10, replicas=replicas), "recovery": recovery}
    return plan_of(run.model_copy(update=settings), SHARES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, torch.Tensor]:
    with crew(tmp_path_factory.mktemp("undisturbed") / "run", made(), data) as run:
        run.start()
        assert [job.state for job in run.ended()] == ["completed"] * 3, run.said()
        return run.model()


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lost", [0, pytest.param(2, marks=pytest.mark.soak)])
def test_the_others_go_on_and_train_the_same(
    tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor], lost: int
) -> None:
    members = tuple(rank for rank in range(3) if rank != lost)
    with crew(tmp_path / "run", made(), data) as run:
        run.start()
        run.until(lambda: everywhere(run), "a checkpoint that all know of")
        lose(run, f"node{lost + 1}")
        others_ended(run)
        for rank in members:
            job = run.job(f"node{rank + 1}")
            assert (job.state, job.restarts, job.generation) == ("completed", 1, 1), run.said()
            assert job.resumed_step is not None
            assert job.resumed_step >= 10
            note = read_generation(run.folder, f"node{rank + 1}", rank)
            assert note is not None
            assert (note.members, note.pending) == (members, ())
        torch.testing.assert_close(run.model(), undisturbed, rtol=0, atol=2e-3)
        summary = summary_of(run.path)
        assert (summary.status, summary.world_size, summary.steps) == ("completed", 2, STEPS)
        lines = [json.loads(line) for line in run.folder.metrics("node2", 1).read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_shard_that_only_the_lost_node_had_is_one_clear_error(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(replicas=1), data) as run:
        run.start()
        run.until(lambda: everywhere(run), "a checkpoint that all know of")
        lose(run, "node3")
        others_ended(run)
        for node in ("node1", "node2"):
            job = run.job(node)
            assert (job.state, job.restarts) == ("failed", 1), run.said()
            assert "-e replicate_checkpoints=2 keeps one" in job.reason


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_lost_its_checkpoints_gets_them_from_the_others(
    tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    with crew(tmp_path / "run", made(elastic=False), data) as run:
        run.start()
        run.until(lambda: everywhere(run), "a checkpoint that all know of")
        lose(run, "node2")
        run.lost.clear()
        assert [job.state for job in run.ended()] == ["completed"] * 3, run.said()
        assert all(job.resumed_step is not None and job.resumed_step >= 10 for job in map(run.job, run.nodes))
        ours = run.model()
        assert all(torch.equal(ours[name], undisturbed[name]) for name in undisturbed)
