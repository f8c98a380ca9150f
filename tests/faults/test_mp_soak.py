"""mp under fire: stages, supervisors, whole machines killed at random while one run goes on to the very same weights.

make soak ARGS="tests/faults/test_mp_soak.py"        SOAK_SHOTS=10 for a smaller one
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from smolcluster.plan.types import Plan
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.train.train_folders import plan_of, run_spec

from .crew import Crew, crew, same

SHOTS = int(os.environ.get("SOAK_SHOTS", "50"))
BATCH = 6
Bounds = tuple[tuple[int, int], ...]
# A shot falls within so many steps of the last one's: there are steps left for all.
APART = 40


def made(stages: Bounds, shares: tuple[int, ...]) -> Plan:
    """One pipeline, or several with those shares of the batch."""
    samples = tuple(share if stage == 0 else 0 for share in shares for stage in range(len(stages)))
    steps = SHOTS * APART * 3 // 2
    run = run_spec("mp", samples, batch_size=BATCH, dropout=0.1, max_steps=steps, eval_steps=500, grad_accumulation=4)
    settings = {
        "model": run.model.model_copy(update={"num_layers": stages[-1][1]}),
        "replicas": len(shares),
        "checkpoint": CheckpointSpec(every_steps=5, keep=2),
        "recovery": RecoverySpec(max_restarts=4 * SHOTS),
    }
    plan = plan_of(run.model_copy(update=settings), samples)
    return plan.model_copy(update={"shape": "CHAIN", "stages": stages, "replicas": len(shares)})


def shoot(run: Crew, dice: random.Random) -> str:
    """At a rank mostly, now and then while a checkpoint is written; at a supervisor, or at a rank with it."""
    victim, what = dice.randrange(len(run.nodes)), dice.random()
    node = run.nodes[victim]
    if what < 0.2:
        run.until(lambda: run.writing() or finished(run), "a checkpoint begins", pause_s=0.001)
    if what < 0.8:
        run.kill_rank(victim)
        return f"rank {victim}"
    run.kill_supervisor(node)
    if what < 0.9:
        return f"supervisor of {node}"
    run.kill_rank(victim)
    return f"{node}, whole"


def finished(run: Crew) -> bool:
    return (run.folder.model / "model.safetensors").exists()


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("stages", "shares"),
    [(((0, 1), (1, 2), (2, 4)), (BATCH,)), (((0, 2), (2, 4)), (4, 2))],
    ids=["three stages", "two pipelines of two"],
)
def test_kills_at_random_change_no_bit(tmp_path: Path, data: Path, stages: Bounds, shares: tuple[int, ...]) -> None:
    dice = random.Random(8)
    plan = made(stages, shares)
    with crew(tmp_path / "run", plan, data) as run:
        run.start()
        aim = 0
        for shot in range(SHOTS):
            aim += dice.randrange(1, APART)
            run.until(lambda aim=aim: run.step(0) >= aim, f"step {aim} before shot {shot}")  # type: ignore[misc]
            threading.Event().wait(dice.random() * 0.3)
            reached = max(map(run.step, range(plan.world_size)))
            hit = shoot(run, dice)
            print(f"shot {shot} at {hit}, step {reached}", flush=True)
            aim = max(aim, reached)
        assert not finished(run), "the last shot came after the end"
        jobs = run.ended()
        assert [job.state for job in jobs] == ["completed"] * plan.world_size, run.said()
        generations = {job.generation for job in jobs}
        assert len(generations) == 1, jobs
        # Two shots may fall into one restart.
        assert SHOTS // 2 <= generations.pop() <= 2 * SHOTS
        got = run.model()
    with crew(tmp_path / "undisturbed", plan, data) as run:
        run.start()
        assert [(job.state, job.restarts) for job in run.ended()] == [("completed", 0)] * plan.world_size, run.said()
        assert same(got, run.model())
