"""A rank is lost while ranks are steps apart: all begin again from the last fence that was saved, and end equal.

Killed, frozen past its deadline, or lost for good with its disk, where the others go on without it.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from smolcluster.observe.report import summary_of
from smolcluster.plan.types import Plan
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.steps import read_metrics
from tests.train.train_folders import SEQ_LEN, plan_of, run_spec

from .crew import Crew, crew
from .test_elastic import everywhere, lose, others_ended

SHOTS = int(os.environ.get("SOAK_SHOTS", "50"))
STEPS, BOUND, EVERY = 120, 2, 10
KINDS = [("classicdp", 0), ("fsdp", 1)]
EACH = [pytest.param(KINDS[0], marks=pytest.mark.core, id="classicdp"), pytest.param(KINDS[1], id="fsdp")]
SAMPLES = 7
FROZEN_S, DEADLINE_S = 12.0, 5.0


def made(kind: tuple[str, int], shares: tuple[int, ...], steps: int = STEPS, **changed: Any) -> Plan:
    strategy, stage = kind
    run = run_spec(strategy, shares, stage, max_steps=steps, eval_steps=steps // 2)
    settings = {
        "checkpoint": CheckpointSpec(every_steps=EVERY, keep=2), "recovery": RecoverySpec(max_restarts=5),
        "staleness_bound": BOUND,
    }  # fmt: skip
    return plan_of(run.model_copy(update={**settings, **changed}), shares)


def assert_whole(run: Crew, ranks: tuple[int, ...], steps: int = STEPS, since: int = 0) -> None:
    """What the ranks that took part to the end must have written: every step once, every gradient applied once.

    since: from that step on no others took part.
    """
    told = summary_of(run.path)
    assert (told.status, told.steps, told.world_size) == ("completed", steps, len(ranks)), run.said()
    assert told.staleness_max is not None
    assert told.staleness_max <= BOUND
    assert told.val_loss is not None
    assert told.val_loss_first is not None
    assert told.val_loss < told.val_loss_first
    lines = {rank: read_metrics(run.folder.metrics(f"node{rank + 1}", rank))[0] for rank in ranks}
    for mine in lines.values():
        assert [record.step for record in mine] == list(range(1, steps + 1))
        late = [record for record in mine if record.step > since]
        if len(ranks) == 1:  # one alone is behind nobody
            assert all(record.lags is None and record.applied is None for record in late)
            continue
        assert all(len(record.lags or ()) == len(ranks) for record in late)
        fences = [record for record in late if record.step % EVERY == 0]
        assert [record.applied for record in fences] == [len(ranks) * EVERY] * len(fences)
        assert all(record.applied is None for record in late if record.step % EVERY)
    # What all know of a fence is the same on all, the loss of equal replicas too.
    rested = [[known_of(record) for record in mine if record.step % EVERY == 0] for mine in lines.values()]
    assert all(each == rested[0] for each in rested)


def known_of(record: StepRecord) -> tuple[int, float, float | None]:
    return record.step, record.loss, record.val_loss


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", EACH)
def test_a_killed_rank(tmp_path: Path, data: Path, kind: tuple[str, int]) -> None:
    with crew(tmp_path / "run", made(kind, (4, 3)), data) as run:
        run.start()
        step = random.Random(3).randrange(20, 60)
        run.until(lambda: run.step(0) >= step, f"step {step}")
        run.kill_rank(1)
        jobs = run.ended()
        assert [(job.state, job.generation) for job in jobs] == [("completed", 1)] * 2, run.said()
        assert max(job.restarts for job in jobs) == 1
        assert_whole(run, (0, 1))
        told = summary_of(run.path)
        assert told.tokens == STEPS * SAMPLES * SEQ_LEN
        assert told.staleness_by_rank is not None
        assert len(told.staleness_by_rank) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS, ids=[name for name, _ in KINDS])
def test_a_frozen_rank_is_noticed_at_its_deadline(tmp_path: Path, data: Path, kind: tuple[str, int]) -> None:
    fault = FaultSpec(kind="freeze", rank=1, step=33, seconds=FROZEN_S)
    plan = made(kind, (4, 3), faults=(fault,))
    comm = plan.run.comm.model_copy(update={"timeout_s": DEADLINE_S})
    plan = plan.model_copy(update={"run": plan.run.model_copy(update={"comm": comm})})
    with crew(tmp_path / "run", plan, data) as run:
        run.start()
        jobs = run.ended()
        assert [(job.state, job.restarts) for job in jobs] == [("completed", 1)] * 2, run.said()
        assert f"rank 1 sent nothing for {DEADLINE_S:g} s" in run.folder.log("node1", 0).read_text()
        assert_whole(run, (0, 1))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "shares", "lost"),
    [(KINDS[0], (3, 2, 2), 0), (KINDS[1], (3, 2, 2), 2), (KINDS[1], (4, 3), 1)],
    ids=["classicdp", "fsdp", "one is left"],
)
def test_a_rank_that_is_lost_for_good(
    tmp_path: Path, data: Path, kind: tuple[str, int], shares: tuple[int, ...], lost: int
) -> None:
    recovery = RecoverySpec(max_restarts=2, elastic=True, elastic_wait_s=3)
    plan = made(kind, shares, recovery=recovery, checkpoint=CheckpointSpec(every_steps=EVERY, replicas=2))
    left = tuple(rank for rank in range(len(shares)) if rank != lost)
    with crew(tmp_path / "run", plan, data) as run:
        run.start()
        run.until(lambda: everywhere(run), "a checkpoint that all know of")
        lose(run, f"node{lost + 1}")
        others_ended(run)
        jobs = [run.job(f"node{rank + 1}") for rank in left]
        ended = [(job.state, job.restarts, job.generation) for job in jobs]
        assert ended == [("completed", 1, 1)] * len(left), run.said()
        resumed = {job.resumed_step for job in jobs}
        assert len(resumed) == 1
        since = resumed.pop() or 0
        assert since >= EVERY
        assert_whole(run, left, since=since)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS, ids=[name for name, _ in KINDS])
def test_kills_at_random(tmp_path: Path, data: Path, kind: tuple[str, int]) -> None:
    """Ranks, supervisors and both: the run goes on until its end, and its account is whole."""
    dice, apart = random.Random(8), 40
    steps = SHOTS * apart * 3
    plan = made(kind, (3, 2, 2), steps, recovery=RecoverySpec(max_restarts=4 * SHOTS))
    with crew(tmp_path / "run", plan, data) as run:
        run.start()
        aim = 0
        for shot in range(SHOTS):
            aim += dice.randrange(1, apart)
            run.until(lambda aim=aim: run.step(0) >= aim, f"step {aim} before shot {shot}")  # type: ignore[misc]
            threading.Event().wait(dice.random() * 0.3)
            victim, what = dice.randrange(3), dice.random()
            if what > 0.2:
                run.kill_rank(victim)
            if what < 0.4:
                run.kill_supervisor(f"node{victim + 1}")
            reached = max(map(run.step, range(3)))
            print(f"shot {shot} at rank {victim} ({what:.2f}), step {reached}", flush=True)
            aim = max(aim, reached)
        assert not run.folder.model.exists(), "the last shot came after the end"
        assert [job.state for job in run.ended()] == ["completed"] * 3, run.said()
        assert_whole(run, (0, 1, 2), steps)
