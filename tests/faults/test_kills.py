"""kill -9 at random moments, of ranks, supervisors, the controller, everything, and in the middle of a checkpoint.

The run goes on by itself, or is resumed, and its weights are those of an undisturbed one, bit for bit. Five here, a
hundred with `make soak`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smolcluster.plan.types import Plan
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.train.train_folders import plan_of, run_spec

from .crew import Crew, crew, same

SHARES = (3, 2)
STEPS = 120
KINDS = (("fsdp", 1), ("classicdp", 0), ("fsdp", 2), ("fsdp", 3))
VICTIMS = ("rank", "rank while a checkpoint is written", "supervisor", "all", "controller")
Weights = dict[str, torch.Tensor]
Reference = Callable[[str, int], Weights]


def made(strategy: str, stage: int) -> Plan:
    run = run_spec(strategy, SHARES, stage, dropout=0.1, max_steps=STEPS, eval_steps=60)
    settings = {"checkpoint": CheckpointSpec(every_steps=5, keep=2), "recovery": RecoverySpec(max_restarts=5)}
    return plan_of(run.model_copy(update=settings), SHARES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Reference:
    known: dict[tuple[str, int], Weights] = {}

    def weights(strategy: str, stage: int) -> Weights:
        if (strategy, stage) not in known:
            with crew(tmp_path_factory.mktemp("undisturbed") / "run", made(strategy, stage), data) as run:
                run.start()
                assert [job.state for job in run.ended()] == ["completed"] * 2, run.said()
                assert [job.restarts for job in run.ended()] == [0, 0]
                known[strategy, stage] = run.model()
        return known[strategy, stage]

    return weights


def at_a_moment(run: Crew, dice: random.Random, victim: str) -> None:
    """Wait for the moment to shoot: anywhere in the run, its start and its end included."""
    step = dice.choice((0, dice.randrange(1, STEPS), dice.randrange(1, STEPS), STEPS))
    run.until(lambda: run.step(0) >= min(step, STEPS) or done(run), f"step {step}")
    if victim == "rank while a checkpoint is written":
        run.until(lambda: run.writing() or done(run), "a checkpoint begins", pause_s=0.001)
    else:
        threading.Event().wait(dice.random() * 0.3)


def done(run: Crew) -> bool:
    return (run.folder.model / "model.safetensors").exists()


def shoot(run: Crew, dice: random.Random, victim: str) -> None:
    if victim == "all":
        run.kill_all()
    elif victim == "controller":
        run.forget()
    elif victim == "supervisor":
        run.kill_supervisor(dice.choice(run.nodes))
    else:
        run.kill_rank(dice.randrange(len(SHARES)))


def shot_at(folder: Path, data: Path, seed: int, victim: str, kind: tuple[str, int], expected: Weights) -> None:
    """One run, shot at one to three times; what cannot go on by itself is resumed as another run."""
    dice = random.Random(seed)
    lease_s = 3.0 if victim == "controller" else None
    with crew(folder / "run", made(*kind), data, lease_s=lease_s) as run:
        run.start()
        if victim in ("all", "controller"):
            at_a_moment(run, dice, victim)
            shoot(run, dice, victim)
        else:
            for _ in range(dice.randrange(1, 3)):
                at_a_moment(run, dice, victim)
                shoot(run, dice, victim)
            assert [job.state for job in run.ended()] == ["completed"] * 2, run.said()
        if all(run.job(node).state == "completed" for node in run.nodes):
            assert same(run.model(), expected), run.said()
            return
        found = run.newest_checkpoint()
        named = str(run.path) if found else None
    with crew(folder / "resumed", made(*kind), data, resume_from=named) as run:
        run.start()
        jobs = run.ended()
        assert [job.state for job in jobs] == ["completed"] * 2, run.said()
        assert [job.resumed_step for job in jobs] == [found, found]
        assert same(run.model(), expected), run.said()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.core), *range(1, 5)])
def test_shot_at(tmp_path: Path, data: Path, undisturbed: Reference, seed: int) -> None:
    shot_at(tmp_path, data, seed, VICTIMS[seed], KINDS[0], undisturbed(*KINDS[0]))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 200))
def test_shot_at_a_hundred_times(tmp_path: Path, data: Path, undisturbed: Reference, seed: int) -> None:
    kind = KINDS[seed % len(KINDS)]
    shot_at(tmp_path, data, seed, VICTIMS[seed % len(VICTIMS)], kind, undisturbed(*kind))
