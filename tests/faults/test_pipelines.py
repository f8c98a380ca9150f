"""Pipelines of mp side by side lose a rank, or a machine for good: they begin again from a checkpoint, as one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smolcluster.observe.report import summary_of
from smolcluster.plan.types import Plan
from smolcluster.runtime.checkpoint.manifest import Manifest, parse_manifest
from smolcluster.runtime.generation import read_generation
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.train.train_folders import plan_of, run_spec

from .crew import crew, everywhere, lose, others_ended, same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARES, STEPS = (4, 0, 2, 0), 60
STAGES = ((0, 2), (2, 4))


def made(elastic: bool = False) -> Plan:
    run = run_spec("mp", SHARES, batch_size=sum(SHARES), max_steps=STEPS, eval_steps=30, grad_accumulation=2)
    settings = {
        "model": run.model.model_copy(update={"num_layers": STAGES[-1][1]}),
        "checkpoint": CheckpointSpec(every_steps=5, replicas=2),
        "recovery": RecoverySpec(max_restarts=3, elastic=elastic, elastic_wait_s=3),
        "replicas": 2,
    }
    plan = plan_of(run.model_copy(update=settings), SHARES)
    return plan.model_copy(update={"shape": "CHAIN", "stages": STAGES, "replicas": 2})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, torch.Tensor]:
    with crew(tmp_path_factory.mktemp("undisturbed") / "run", made(), data) as run:
        run.start()
        assert [job.state for job in run.ended()] == ["completed"] * 4, run.said()
        return run.model()


def newest(folder: RunFolder) -> Manifest:
    return parse_manifest(max(folder.checkpoints.glob("step-*.json")).read_text())


@pytest.mark.parametrize("victim", [1, 2])
def test_a_killed_replica_changes_no_bit(
    tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor], victim: int
) -> None:
    with crew(tmp_path / "run", made(), data) as run:
        run.start()
        run.until(lambda: run.newest_checkpoint() >= 5, "a checkpoint")
        run.kill_rank(victim)
        jobs = run.ended()
        assert [job.state for job in jobs] == ["completed"] * 4, run.said()
        assert [job.restarts for job in jobs] == [1] * 4
        assert same(run.model(), undisturbed)
        manifest = newest(run.folder)
        pieces = [(entry.name, entry.offset) for file in manifest.files for entry in file.entries]
        assert len(pieces) == len(set(pieces))
        assert sum(manifest.progress.tokens) == STEPS * sum(SHARES) * 16


@pytest.mark.parametrize("lost", [0, 3])
def test_all_who_are_left_form_whole_pipelines(
    tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor], lost: int
) -> None:
    """Three are one pipeline of three: the other one's stages are not left to wait for a replica."""
    members = tuple(rank for rank in range(4) if rank != lost)
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
        assert (told.steps, told.tokens) == (STEPS, STEPS * sum(SHARES) * 16)
        assert told.idle_planned == pytest.approx(2 / 4)  # of three stages and two micro-batches
        for name, value in run.model().items():
            torch.testing.assert_close(value, undisturbed[name], rtol=0, atol=1e-3)
