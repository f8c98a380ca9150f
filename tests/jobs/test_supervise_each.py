"""A served model's ranks: each is started again for itself, the others live on, and what cannot be had ends the job."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from smolcluster.jobs.launch import start_job
from smolcluster.jobs.poll import list_runs, poll_job
from smolcluster.jobs.restarts import (
    FIRST_DELAY_S,
    LOST_PER_RESTART,
    MOST_DELAY_S,
    WINDOW_S,
    RestartsOfEach,
    SupervisorRestarts,
)
from smolcluster.jobs.state import read_state
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobRefused
from smolcluster.runtime.runfolder import JobState, RankResult, ServingNote, write_atomic
from smolcluster.spec.run import RecoverySpec

from .conftest import NodeMaker
from .node import FAKE_SUPERVISOR, FakeNode, until


def ended(node: FakeNode) -> JobState:
    until(lambda: poll_job(node.run_dir, node.node).job.state in ("completed", "failed", "stopped"), "the job ends")
    return poll_job(node.run_dir, node.node).job


def starts(node: FakeNode, rank: int) -> int:
    file = node.file.parent / f"starts-{rank}"
    return file.stat().st_size if file.exists() else 0


def test_a_stage_that_is_killed_is_started_again_alone(new_node: NodeMaker) -> None:
    node = new_node("run", "kill|run", "run", serves=True, max_restarts=3)
    node.start()
    first = [node.rank_pids(rank) for rank in (0, 2)]
    until(lambda: starts(node, 1) == 2 and poll_job(node.run_dir, "node1").job.ranks[1] == "running", "rank 1 is back")
    answer = poll_job(node.run_dir, "node1")
    assert (answer.job.state, answer.job.restarts, answer.failed) == ("running", 1, ())
    assert answer.job.ranks == dict.fromkeys(range(3), "running")
    assert answer.job.restart_reason.startswith("rank 1: ended by signal 9")
    assert answer.job.restart_ours
    assert [node.rank_pids(rank) for rank in (0, 2)] == first
    assert [starts(node, rank) for rank in range(3)] == [1, 2, 1]
    log = node.folder.log("node1", 1)
    until(lambda: len(log.read_text().splitlines()) == 3, "it says what it does")
    lines = log.read_text().splitlines()
    assert lines[0] == "rank 1 does kill"
    assert lines[1].startswith("---- restart 1 of 3 within 10 minutes: rank 1: ended by signal 9")
    assert lines[2] == "rank 1 does run"
    node.remember()
    job = stop_job(node.run_dir, "node1", "enough")
    assert (job.state, job.reason) == ("stopped", "enough")
    node.gone()


def test_the_api_is_started_again_as_any_rank(new_node: NodeMaker) -> None:
    node = new_node("run", "run|run", serves=True, max_restarts=3)
    node.start()
    (api,) = node.rank_pids(1)
    os.kill(api, signal.SIGKILL)
    until(lambda: starts(node, 1) == 2, "the API is started again")
    assert starts(node, 0) == 1
    node.remember()
    stop_job(node.run_dir, "node1")
    node.gone()


@pytest.mark.parametrize("behaviour", ["done", "code:130", "code:3", "code:1"])
def test_whoever_ends_unasked_is_started_again(new_node: NodeMaker, behaviour: str) -> None:
    node = new_node("run", f"{behaviour}|run", serves=True, max_restarts=1)
    node.start()
    until(lambda: starts(node, 1) == 2 and poll_job(node.run_dir, "node1").job.ranks[1] == "running", "it is back")
    # One that only lost its head has not failed.
    assert poll_job(node.run_dir, "node1").job.restarts == (0 if behaviour == "code:3" else 1)
    node.remember()
    stop_job(node.run_dir, "node1")
    node.gone()


def test_too_many_deaths_end_the_job(new_node: NodeMaker) -> None:
    node = new_node("run", "kill", "run", serves=True, max_restarts=2)
    node.start()
    for rank in (0, 2):
        node.rank_pids(rank)
    job = ended(node)
    assert (job.state, job.restarts, starts(node, 1)) == ("failed", 2, 3)
    assert job.reason.startswith("rank 1: ended by signal 9")
    assert job.reason.endswith("(after 2 restarts within 10 minutes)")
    assert job.ranks == {0: "130", 1: "137", 2: "130"}
    [failure] = poll_job(node.run_dir, "node1").failed
    assert (failure.rank, failure.root_cause, failure.tail[-1]) == (1, True, "rank 1 does kill")
    node.gone()


@pytest.mark.parametrize(("behaviour", "code"), [("code:2", "2"), ("done", "1")])
def test_a_rank_that_cannot_be_had_ends_the_job_at_once(new_node: NodeMaker, behaviour: str, code: str) -> None:
    """A config error is final; with no restarts to be had so is any end."""
    node = new_node("run", behaviour, serves=True, max_restarts=0 if behaviour == "done" else 3)
    node.start()
    job = ended(node)
    assert (job.state, job.restarts, job.ranks, starts(node, 1)) == ("failed", 0, {0: "130", 1: code}, 1)
    node.gone()


def test_a_stop_does_not_wait_for_a_pause(new_node: NodeMaker) -> None:
    """Rank 1 dies again and again, so that it mostly waits to be started; nothing is started once a stop was asked."""
    node = new_node("run", "kill", serves=True, max_restarts=1_000)
    node.start()
    until(lambda: poll_job(node.run_dir, "node1").job.restarts >= 2, "the pauses have grown")
    until(lambda: read_state(node.folder, "node1").ranks[1] == "restarting", "it waits")
    node.remember()
    job = stop_job(node.run_dir, "node1", "enough")
    count = starts(node, 1)
    assert (job.state, job.ranks) == ("stopped", {0: "130", 1: "137"})
    node.gone()
    assert starts(node, 1) == count


def test_a_lost_lease_ends_ranks_that_keep_dying(new_node: NodeMaker) -> None:
    node = new_node("kill", "run", serves=True, max_restarts=1_000, lease_s=0.5)
    node.start()
    until(lambda: node.registry.active() is None, "the run ends with its lease")
    job = read_state(node.folder, "node1")
    assert job.state == "stopped"
    assert "lease" in job.reason
    node.gone()


def test_a_dead_supervisor_takes_everything_along_and_the_next_one_counts_on(new_node: NodeMaker) -> None:
    node = new_node("run", "run", serves=True, max_restarts=3)
    pid = node.start().pid
    for rank in (0, 1):
        node.rank_pids(rank)
    os.kill(pid, signal.SIGKILL)
    node.gone()
    lost = poll_job(node.run_dir, "node1").job
    assert (lost.state, lost.lost, lost.ranks) == ("failed", True, {0: "130", 1: "130"})
    assert node.start().restarts == 1
    until(lambda: starts(node, 0) == 2, "it runs again")
    again = read_state(node.folder, "node1")
    assert again.began == lost.began > 0
    assert again.seconds > lost.seconds
    node.remember()
    stop_job(node.run_dir, "node1")
    node.gone()
    restarted = [line for line in node.folder.log("node1", 0).read_text().splitlines() if line.startswith("----")]
    taken_over = f"---- taken over: the supervisor on node1 (pid {pid})"
    assert [line[: len(taken_over)] for line in restarted] == [taken_over]


def test_serving_and_training_exclude_each_other(new_node: NodeMaker) -> None:
    serving = new_node("run", "run", serves=True, run_id="serving")
    training = new_node("run", run_id="training")
    serving.start()
    with pytest.raises(JobRefused, match="the run serving is active"):
        start_job(training.file, supervisor=FAKE_SUPERVISOR)
    stop_job(serving.run_dir, "node1")
    serving.gone()
    training.start()
    with pytest.raises(JobRefused, match="the run training is active"):
        start_job(serving.file, supervisor=FAKE_SUPERVISOR)
    stop_job(training.run_dir, "node1")
    training.gone()


def test_poll_carries_what_the_api_says_and_notices_when_it_says_nothing(new_node: NodeMaker) -> None:
    node = new_node("run", "run|run", serves=True, max_restarts=3)
    node.start()
    (api,) = node.rank_pids(1)
    assert poll_job(node.run_dir, "node1").serving is None

    def says(age_s: float) -> ServingNote:
        note = ServingNote(time=time.time() - age_s, state="ready", urls={"api": "http://127.0.0.1:1"}, tokens=7)
        write_atomic(node.folder.serving("node1", 1), note.model_dump_json(by_alias=True))
        return note

    note = says(0)
    assert poll_job(node.run_dir, "node1").serving == note
    says(100)
    silent = poll_job(node.run_dir, "node1").serving
    assert silent is not None
    # Not how long: every look would have news.
    assert (silent.state, silent.tokens, silent.reason) == ("lost", 7, "the API has said nothing for more than 30 s")
    says(0)
    os.kill(api, signal.SIGKILL)
    until(lambda: starts(node, 1) == 2, "the API is started again")
    assert poll_job(node.run_dir, "node1").serving is None, "what it said before it died is no answer"
    says(0)
    node.remember()
    stop_job(node.run_dir, "node1")
    closed = poll_job(node.run_dir, "node1").serving
    assert closed is not None
    assert (closed.state, closed.tokens) == ("closed", 7)
    assert [entry.active for entry in list_runs(node.workdir)] == [False]
    node.gone()


def due(policy: RestartsOfEach, rank: int, now: float, code: int = -9, **result: object) -> float | None:
    said = RankResult(rank=rank, node="n", status="failed", exit_code=3, reason="gone", **result) if result else None
    return policy.due(rank, code, said, now)


def test_pauses_grow_and_old_restarts_are_forgotten() -> None:
    policy = RestartsOfEach(RecoverySpec(max_restarts=7), None)
    pauses = [due(policy, 0, now) for now in range(7)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    assert (FIRST_DELAY_S, MOST_DELAY_S) == (1.0, 16.0)
    assert due(policy, 0, 7) is None
    assert policy.refusal == "ended although nobody asked (after 7 restarts within 10 minutes)"
    assert due(policy, 1, 7) == 1.0, "every rank has restarts of its own"
    assert due(policy, 0, 3 + WINDOW_S) == 8.0, "the first four were long ago"
    assert policy.count == 9
    assert policy.why_of(0) == "restart 4 of 7 within 10 minutes: rank 0: ended although nobody asked"


def test_a_lost_head_uses_up_no_restart_but_is_not_followed_for_ever() -> None:
    policy = RestartsOfEach(RecoverySpec(max_restarts=2), None)
    most = 2 * LOST_PER_RESTART
    pauses = [due(policy, 1, now, 3, root_cause=False) for now in range(most)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, *[16.0] * (most - 4)]
    assert (policy.count, policy.reason) == (0, "")
    assert policy.why_of(1) == f"start {most} of {most} within 10 minutes: rank 1: gone"
    assert due(policy, 1, most) == 1.0, "its own restarts are all left"
    assert (policy.count, policy.ours) == (1, True)
    assert due(policy, 1, most, 3, root_cause=False) is None
    assert policy.refusal == f"gone (after {most} starts within 10 minutes)"
    assert due(policy, 1, WINDOW_S, 3, root_cause=False) == 16.0, "the first one was long ago"
    assert due(RestartsOfEach(RecoverySpec(max_restarts=0), None), 1, 0.0, 3, root_cause=False) is None


@pytest.mark.parametrize("code", [2, 4, 127])
def test_what_would_end_the_same_way_is_not_tried_again(code: int) -> None:
    policy = RestartsOfEach(RecoverySpec(max_restarts=7), None)
    assert due(policy, 0, 0.0, code) is None
    assert due(policy, 0, 0.0, 3, final=True) is None
    assert policy.refusal == "gone"
    assert (policy.count, policy.ours) == (0, False)
    assert due(policy, 0, 0.0, 3, root_cause=True) == 1.0
    assert (policy.count, policy.ours, policy.reason) == (1, True, "rank 0: gone")


def test_ranks_that_are_due_together_and_cannot_be_started_end_the_job_in_order(
    new_node: NodeMaker, tmp_path: Path
) -> None:
    """The supervisor is held up while both wait to be started, and its Python has gone meanwhile."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    node = new_node("run", "run", "run", serves=True, max_restarts=3, python=str(python))
    pid = node.start().pid
    ranks = [who for rank in range(3) for who in node.rank_pids(rank)]
    python.unlink()
    for rank in (0, 1):
        os.kill(ranks[rank], signal.SIGKILL)
    until(lambda: list(read_state(node.folder, "node1").ranks.values()).count("restarting") == 2, "both wait")
    os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(1.5 * FIRST_DELAY_S)  # until both are due
    os.kill(pid, signal.SIGCONT)
    job = ended(node)
    assert (job.state, job.ranks[2], job.lost) == ("failed", "130", False)
    assert "cannot start" in job.reason
    node.gone()


def test_restarts_of_ranks_weeks_ago_do_not_keep_a_dead_supervisor_from_coming_back(new_node: NodeMaker) -> None:
    node = new_node("run", "kill|kill|run", serves=True, max_restarts=2)
    pid = node.start().pid
    until(lambda: starts(node, 1) == 3 and poll_job(node.run_dir, "node1").job.ranks[1] == "running", "it runs")
    node.remember()
    os.kill(pid, signal.SIGKILL)
    node.gone()
    lost = poll_job(node.run_dir, "node1").job
    assert (lost.lost, lost.restarts) == (True, 2)
    assert not SupervisorRestarts(2, serves=False).due(lost, 0.0), "training counts all restarts"
    restarts = SupervisorRestarts(2, serves=True)
    assert [restarts.due(lost, now) for now in (0.0, 1.0, 2.0, WINDOW_S)] == [True, True, False, True]
    assert not restarts.due(lost.model_copy(update={"lost": False}), 2 * WINDOW_S)
