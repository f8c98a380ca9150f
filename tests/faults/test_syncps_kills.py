"""Workers of syncps are slow, killed, frozen, cut off, and so is its server: steps go on, every gradient is told of."""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from smolcluster.jobs.identity import alive
from smolcluster.observe.report import read_run, summary_of
from smolcluster.plan.types import Plan
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.train.star_folders import star_plan
from tests.train.train_folders import plan_of, run_spec

from .crew import crew
from .test_edp_kills import SHARES, closes, completed, ended, hurt, log_of, process, result, stop


def made(steps: int, patience_s: float = 0.1, **changes: Any) -> Plan:
    settings = {
        "checkpoint": CheckpointSpec(every_steps=20, keep=2),
        "syncps_timeout_s": patience_s,
        "server_trains": changes.pop("server_trains", False),
    }
    recovery = RecoverySpec(max_restarts=8)
    changes = {"interval": 2, "wire": "int8", "timeout_s": 20.0, "polyak_alpha": 0.7, **changes}
    return star_plan(SHARES, "syncps", settings=settings, recovery=recovery, max_steps=steps, eval_steps=50, **changes)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_late_gradients_of_a_slow_worker_join_the_next_step(tmp_path: Path, data: Path) -> None:
    slow = FaultSpec(kind="delay", rank=2, step=1, ms=400)
    with crew(tmp_path / "run", made(steps=60, faults=(slow,), wire="fp32", interval=1), data) as run:
        run.start()
        account = completed(run)
        steps = read_run(run.path).ranks[0].steps
        assert account.late > 0
        assert sum(step.late or 0 for step in steps) == account.late
        assert max(step.staleness for step in steps) >= 1
        assert (account.pushed, account.rolled_back, account.refused) == (account.applied, 0, {})
        assert 0 < result(run, 2).steps < result(run, 1).steps  # nobody waited for it
        assert result(run, 1).steps + result(run, 2).steps + result(run, 3).steps == account.pushed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_comes_again(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(steps=100_000), data) as run:
        run.start()
        run.until(lambda: min(map(run.step, range(4))) >= 10, "all are at work")
        before = {rank: process(run, rank) for rank in range(4)}
        step = run.step(2)
        run.kill_rank(2)
        run.until(lambda: "rank 2 is gone" in log_of(run, 0), "it is missed")
        run.until(lambda: log_of(run, 0).count("rank 2 is here") == 2, "rank 2 is back")
        run.until(lambda: run.step(2) > step + 5, "it works again")
        assert {rank: process(run, rank) == before[rank] for rank in range(4)} == {0: True, 1: True, 2: False, 3: True}
        stop(run)
        account = result(run, 0).gradients
        assert account is not None
        assert closes(account), account
        assert [run.job(node).restarts for node in run.nodes] == [0, 0, 1, 0]
        assert account.rolled_back == 0
    assert not any(map(alive, before.values()))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.name == "nt", reason="no SIGSTOP there")
def test_nobody_waits_longer_than_the_timeout_for_a_frozen_worker(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(steps=100_000, timeout_s=4.0), data) as run:
        run.start()
        run.until(lambda: min(map(run.step, range(4))) >= 10, "all are at work")
        frozen = process(run, 1)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            step = run.step(0)
            run.until(lambda: run.step(0) > step + 3, "steps go on")
            run.until(lambda: "rank 1 is gone" in log_of(run, 0), "its deadline is over")
            step = run.step(0)
            run.until(lambda: run.step(0) > step + 20, "the others go on")
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        run.until(lambda: log_of(run, 0).count("rank 1 is here") == 2, "it joins again")
        step = run.step(1)
        run.until(lambda: run.step(1) > step + 3, "it works again")
        assert process(run, 1) == frozen
        assert re.search(r"rank 1 is gone \(.*sent nothing for 4 s\); [1-9]\d* samples", log_of(run, 0))
        stop(run)
        account = result(run, 0).gradients
        assert account is not None
        assert closes(account), account
        assert account.samples_released > 0


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "trains", [pytest.param(False, marks=pytest.mark.soak, id="it only serves"), pytest.param(True, id="it trains")]
)
def test_a_killed_server_starts_again_and_its_workers_find_it(tmp_path: Path, data: Path, trains: bool) -> None:
    plan = made(steps=300, server_trains=trains)
    if trains:
        ranks = (plan.ranks[0].model_copy(update={"samples": 2}), *plan.ranks[1:])
        plan = plan.model_copy(update={"ranks": ranks, "global_batch": plan.global_batch + 2})
    with crew(tmp_path / "run", plan, data) as run:
        run.start()
        run.until(lambda: run.newest_checkpoint() >= 40, "a checkpoint of step 40")
        run.kill_rank(0)
        run.until(lambda: run.job("node1").generation == 1, "the server's next generation")
        account = completed(run)
        assert [result(run, rank).generation for rank in range(4)] == [1] * 4
        assert [run.job(node).restarts for node in run.nodes] == [1, 0, 0, 0]
        assert account.rolled_back > 0
        assert run.job("node1").resumed_step >= 40
        steps = read_run(run.path).ranks[0].steps
        assert [record.step for record in steps] == sorted({record.step for record in steps})
        assert steps[-1].step == 300


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stopped_in_the_middle_it_can_be_gone_on_with_by_another_strategy(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(steps=100_000), data) as run:
        run.start()
        run.until(lambda: run.step(0) >= 30, "step 30")
        stop(run)
        server = result(run, 0)
        assert (server.status, server.exit_code) == ("stopped", 130), run.said()
        assert server.gradients is not None
        assert closes(server.gradients)
        assert (run.folder.model / "model.safetensors").exists()
        found = run.newest_checkpoint()
        assert found == server.steps
    plan = plan_of(run_spec("fsdp", (5, 3), max_steps=found + 5), (5, 3))
    with crew(tmp_path / "fsdp", plan, data, resume_from=str(tmp_path / "run")) as run:
        run.start()
        assert [job.state for job in run.ended()] == ["completed"] * 2, run.said()
        assert run.job("node1").resumed_step == found
        back = run.newest_checkpoint()
    with crew(tmp_path / "back", made(steps=back + 5), data, resume_from=str(tmp_path / "fsdp")) as run:
        run.start()
        assert [job.state for job in run.ended()] == ["completed"] * (len(SHARES) + 1), run.said()
        account = result(run, 0).gradients
        assert account is not None
        assert closes(account), account
        assert run.job("node1").resumed_step == back
        assert account.samples_applied == (back + 5) * run.plan.global_batch


# -- many -------------------------------------------------------------------------------------------------------------


def shot_at(folder: Path, data: Path, seed: int, times: int) -> None:
    dice = random.Random(seed)
    faults = tuple(
        FaultSpec(
            kind="partition", ranks=[dice.randrange(1, 4)], step=dice.randrange(5, 60), seconds=dice.choice((1, 5))
        )
        for _ in range(2)
    )
    wire, interval = dice.choice(("fp32", "int8")), dice.choice((1, 3))
    with crew(folder / "run", made(steps=400, timeout_s=2.5, wire=wire, interval=interval, faults=faults), data) as run:
        run.start()
        for _ in range(times):
            here = run.step(0)
            goal = here + dice.randrange(1, 30)
            run.until(lambda goal=goal, here=here: not here <= run.step(0) < goal or ended(run), f"step {goal}")
            hurt(run, dice)
        completed(run)
        assert summary_of(run.path).status == "completed"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_shot_at_random(tmp_path: Path, data: Path) -> None:
    shot_at(tmp_path, data, seed=3, times=5)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(30, 40))
def test_shot_at_seventy_times(tmp_path: Path, data: Path, seed: int) -> None:
    shot_at(tmp_path, data, seed, times=7)
