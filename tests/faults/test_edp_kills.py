"""Workers of edp are killed, frozen and cut off, and so is its server: the others go on, every gradient is told of."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
from pathlib import Path

import pytest

from smolcluster.jobs.identity import ProcessId, alive
from smolcluster.jobs.registry import Registry
from smolcluster.jobs.stop import stop_job
from smolcluster.observe.report import read_run, summary_of
from smolcluster.runtime.results import read_result
from smolcluster.runtime.runfolder import GradientAccount, RankResult
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.train.star_folders import star_plan
from tests.train.train_folders import plan_of, run_spec

from .crew import Crew, crew, shoot

SHARES = (3, 2, 3)


def made(steps: int, **changes):
    settings = {"checkpoint": CheckpointSpec(every_steps=20, keep=2)}
    recovery = RecoverySpec(max_restarts=8)
    changes = {"interval": 2, "wire": "int8", "timeout_s": 20.0, **changes}
    return star_plan(SHARES, settings=settings, recovery=recovery, max_steps=steps, eval_steps=50, **changes)


def closes(account: GradientAccount) -> bool:
    gradients = account.applied + sum(account.refused.values()) + account.rolled_back + account.pending
    samples = account.samples_applied + account.samples_outstanding + account.samples_released
    return (account.pushed, account.samples_leased) == (gradients, samples)


def result(run: Crew, rank: int) -> RankResult:
    found = read_result(run.folder, run.plan.ranks[rank].node, rank)
    assert found is not None, run.said()
    return found


def process(run: Crew, rank: int) -> ProcessId:
    active = Registry.of_run(run.path, run.plan.ranks[rank].node).active()
    assert active is not None, run.said()
    return active.ranks[rank]


def log_of(run: Crew, rank: int) -> str:
    return run.folder.log(run.plan.ranks[rank].node, rank).read_text()


def completed(run: Crew) -> GradientAccount:
    """All ended well, and nothing is unaccounted for; the account."""
    assert [job.state for job in run.ended()] == ["completed"] * (len(SHARES) + 1), run.said()
    server = result(run, 0)
    assert server.gradients is not None
    assert closes(server.gradients), server.gradients
    total = run.plan.run.training.max_steps * run.plan.global_batch
    assert (server.gradients.samples_applied, server.gradients.samples_outstanding) == (total, 0)
    assert (server.steps, server.tokens) == (run.plan.run.training.max_steps, total * 16)
    assert server.val_loss < server.val_loss_first - 1
    return server.gradients


def stop(run: Crew) -> None:
    for node in run.nodes:
        stop_job(run.path, node, grace_s=30.0)
    assert {job.state for job in run.ended()} <= {"stopped", "completed"}, run.said()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_comes_again_and_nobody_pauses(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(steps=100_000), data) as run:
        run.start()
        run.until(lambda: min(map(run.step, range(4))) >= 10, "all are at work")
        before = {rank: process(run, rank) for rank in range(4)}
        steps = run.step(0), run.step(2)
        run.kill_rank(2)
        run.until(lambda: "rank 2 is gone" in log_of(run, 0), "it is missed")
        run.until(lambda: log_of(run, 0).count("rank 2 is here") == 2, "rank 2 is back")
        assert run.step(0) > steps[0]  # they did not wait for it
        run.until(lambda: run.step(2) > steps[1] + 5, "it works again")
        assert {rank: process(run, rank) == before[rank] for rank in range(4)} == {0: True, 1: True, 2: False, 3: True}
        stop(run)
        account = result(run, 0).gradients
        assert closes(account), account
        assert [run.job(node).restarts for node in run.nodes] == [0, 0, 1, 0]
        assert [result(run, rank).generation for rank in range(4)] == [0] * 4
        for rank in (1, 3):
            assert "lost" not in log_of(run, rank)
            assert log_of(run, rank).count("----") == 0
        assert account.rolled_back == 0
        assert re.search(r"rank 2 is gone \(.*\); \d+ samples are given out again", log_of(run, 0))
    assert not any(map(alive, before.values()))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.name == "nt", reason="no SIGSTOP there")
def test_a_frozen_worker_is_noticed_at_its_deadline_and_its_samples_go_to_others(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(steps=2000, timeout_s=3.0), data) as run:
        run.start()
        run.until(lambda: run.step(0) >= 20, "step 20")
        frozen = process(run, 1)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            run.until(lambda: "rank 1 is gone" in log_of(run, 0), "its deadline is over")
            step = run.step(0)
            run.until(lambda: run.step(0) > step + 20, "the others go on")
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        run.until(lambda: log_of(run, 0).count("rank 1 is here") == 2, "it joins again")
        step = run.step(1)
        run.until(lambda: run.step(1) > step + 3, "it works again")
        assert process(run, 1) == frozen
        assert re.search(r"rank 1 is gone \(.*sent nothing for 3 s\); [1-9]\d* samples", log_of(run, 0))
        stop(run)
        account = result(run, 0).gradients
        assert account is not None
        assert closes(account)
        assert account.samples_released > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_server_starts_again_and_its_workers_find_it(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(steps=600), data) as run:
        run.start()
        run.until(lambda: min(map(run.step, range(4))) >= 1, "all are at work")
        run.until(lambda: run.newest_checkpoint() >= 40, "a checkpoint of step 40")
        workers = {rank: process(run, rank) for rank in (1, 2, 3)}
        run.kill_rank(0)
        run.until(lambda: run.job("node1").generation == 1, "the server's next generation")
        account = completed(run)
        assert [result(run, rank).generation for rank in range(4)] == [1] * 4
        assert [run.job(node).restarts for node in run.nodes] == [1, 0, 0, 0]
        assert account.rolled_back > 0
        assert run.job("node1").resumed_step >= 40
        for rank in workers:
            assert log_of(run, rank).count("the link to the server is lost") == 1
        steps = read_run(run.path).ranks[0].steps
        assert [record.step for record in steps] == list(range(1, 601))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stopped_in_the_middle_it_can_be_gone_on_with_by_another_strategy(tmp_path: Path, data: Path) -> None:
    with crew(tmp_path / "run", made(steps=100_000), data) as run:
        run.start()
        run.until(lambda: run.step(0) >= 30, "step 30")
        stop(run)
        server = result(run, 0)
        assert (server.status, server.exit_code) == ("stopped", 130), run.said()
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
        account = completed_after(run)
        assert run.job("node1").resumed_step == back
        assert account.pushed == account.applied + sum(account.refused.values())
        assert account.samples_applied == (back + 5) * run.plan.global_batch


def completed_after(run: Crew) -> GradientAccount:
    assert [job.state for job in run.ended()] == ["completed"] * (len(SHARES) + 1), run.said()
    account = result(run, 0).gradients
    assert account is not None
    assert closes(account)
    return account


# -- many -------------------------------------------------------------------------------------------------------------


def hurt(run: Crew, dice: random.Random) -> None:
    """One random kill of a worker or the server, or a freeze of one that ends.

    Not of a server that is about to end: between its last word and its workers' last it is the only one who knows that
    the run is complete, and who has not heard so fails.
    """
    rank = dice.randrange(len(SHARES) + 1)
    if rank == 0 and run.step(0) > run.plan.run.training.max_steps - 60:
        return
    active = Registry.of_run(run.path, run.plan.ranks[rank].node).active()
    victim = active.ranks.get(rank) if active is not None else None
    if victim is None or not alive(victim):
        return
    if dice.random() < 0.6 or os.name == "nt":
        shoot(victim)
        return
    try:
        os.kill(victim.pid, signal.SIGSTOP)
        threading.Event().wait(dice.choice((0.5, 1.5, 4.0)))
    finally:
        if alive(victim):
            os.kill(victim.pid, signal.SIGCONT)


def shot_at(folder: Path, data: Path, seed: int, times: int) -> None:
    dice = random.Random(seed)
    faults = tuple(
        FaultSpec(
            kind="partition", ranks=[dice.randrange(1, 4)], step=dice.randrange(5, 60), seconds=dice.choice((1, 5))
        )
        for _ in range(2)
    )
    plan = made(steps=600, timeout_s=2.5, wire=dice.choice(("fp32", "int8")), faults=faults)
    with crew(folder / "run", plan, data) as run:
        run.start()
        for _ in range(times):
            here = run.step(0)
            goal = here + dice.randrange(1, 40)
            run.until(lambda goal=goal, here=here: not here <= run.step(0) < goal or ended(run), f"step {goal}")
            hurt(run, dice)
        completed(run)
        assert summary_of(run.path).status == "completed"


def ended(run: Crew) -> bool:
    return run.step(0) >= run.plan.run.training.max_steps


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_shot_at_random(tmp_path: Path, data: Path) -> None:
    shot_at(tmp_path, data, seed=1, times=5)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10, 20))
def test_shot_at_seventy_times(tmp_path: Path, data: Path, seed: int) -> None:
    shot_at(tmp_path, data, seed, times=7)
