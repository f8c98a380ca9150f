"""diloco under fire: ranks killed and frozen at random, and cables pulled by plan, while one run goes on.

make soak ARGS="tests/faults/test_diloco_soak.py"        SOAK_SHOTS=10 for a smaller one
"""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import psutil
import pytest

from smolcluster.jobs.registry import Registry
from smolcluster.jobs.stop import stop_job
from smolcluster.plan.types import Plan
from smolcluster.runtime.results import read_result
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import CheckpointSpec, CommSpec, RecoverySpec
from tests.train.train_folders import SEQ_LEN, plan_of, run_spec

from .crew import Crew, crew

SHOTS = int(os.environ.get("SOAK_SHOTS", "65"))
SHARES = (3, 2, 2)
TIMEOUT_S = 4.0
# A cable is pulled now and then: for less than the timeout, which nobody may notice, and for more.
PARTITION_EVERY, PARTITIONS_S = 40, (1.0, 6.0)
# What Python keeps of groups that are gone, and the allocator of theirs.
MORE_MB = 24.0


def made(overlap: bool) -> Plan:
    run = run_spec("diloco", SHARES, 1, max_steps=5_000_000, eval_steps=5_000_000)
    at = range(PARTITION_EVERY, 40 * SHOTS, PARTITION_EVERY)
    faults = tuple(
        FaultSpec(
            kind="partition", ranks=[number % 3], step=step, generation=generation, seconds=PARTITIONS_S[number % 2]
        )
        for generation in range(4 * SHOTS)
        for number, step in enumerate(at)
    )
    settings = {
        "checkpoint": CheckpointSpec(every_steps=0),
        "comm": CommSpec(timeout_s=TIMEOUT_S),
        "recovery": RecoverySpec(max_restarts=4 * SHOTS),
        "outer_every": 5,
        "outer_overlap": overlap,
        "faults": faults,
    }
    return plan_of(run.model_copy(update=settings), SHARES, wire="int8")


def process_of(run: Crew, rank: int) -> int | None:
    active = Registry.of_run(run.path, run.plan.ranks[rank].node).active()
    who = active.ranks.get(rank) if active is not None else None
    return who.pid if who is not None else None


def freeze(run: Crew, rank: int, seconds: float) -> None:
    """SIGSTOP, and on again: for less than the deadline, or for more."""
    pid = process_of(run, rank)
    if pid is None:
        return
    os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(seconds)
    os.kill(pid, signal.SIGCONT)


def memory_mb(run: Crew, rank: int) -> float:
    pid = process_of(run, rank)
    return psutil.Process(pid).memory_info().rss / 1e6 if pid is not None else 0.0


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
def test_kills_freezes_and_partitions_lose_no_sample_unaccounted(tmp_path: Path, data: Path, overlap: bool) -> None:
    chance = random.Random(5)
    with crew(tmp_path / "run", made(overlap), data) as run:
        run.start()
        run.until(lambda: min(map(run.step, range(3))) > 20, "it trains")
        killed: set[int] = set()
        warm = memory_mb(run, 1)
        for shot in range(SHOTS):
            rank = chance.choice((0, 2))  # rank 1 is frozen and cut off, and never killed: its memory is looked at
            if chance.random() < 0.6:
                run.kill_rank(rank)
                killed.add(rank)
            else:
                freeze(run, chance.randrange(3), chance.choice((0.5, TIMEOUT_S + 2.0)))
            reached = max(map(run.step, range(3)))
            run.until(
                lambda reached=reached: min(map(run.step, range(3))) > reached + 15, f"it goes on after shot {shot}"
            )
            print(f"shot {shot}: step {run.step(1)}, rank 1 {memory_mb(run, 1):.0f} MB", flush=True)
            if shot == SHOTS // 3:
                warm = memory_mb(run, 1)
        assert memory_mb(run, 1) < warm + MORE_MB
        for node in run.nodes:
            stop_job(run.path, node, grace_s=60)
        jobs = run.ended()
        assert [job.state for job in jobs] == ["stopped"] * 3, run.said()
        results = [read_result(run.folder, rank.node, rank.rank) for rank in run.plan.ranks]
        assert all(result is not None for result in results)
        ends = [result for result in results if result is not None]
        assert len({(result.steps, result.loss_last) for result in ends}) == 1
        a_step = sum(SHARES) * SEQ_LEN
        assert ends[0].steps * a_step <= sum(result.tokens for result in ends) < (ends[0].steps + 1) * a_step
        assert jobs[1].restarts == 0, "rank 1 went through all groups in one process"
        assert all(jobs[rank].restarts > 0 for rank in killed)
