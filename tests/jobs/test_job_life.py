"""A job from its start to each of its ends. Nothing may run afterwards, whichever it was."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from smolcluster.jobs.poll import poll_job
from smolcluster.jobs.stop import stop_job
from smolcluster.runtime.results import read_result

from .conftest import NodeMaker
from .node import FakeNode, until


def ended(node: FakeNode) -> str:
    until(lambda: poll_job(node.run_dir, node.node).job.state not in ("starting", "running"), "the job ends")
    return poll_job(node.run_dir, node.node).job.state


def test_all_ranks_done_completes(new_node: NodeMaker) -> None:
    node = new_node("done", "done")
    node.start()
    assert ended(node) == "completed"
    job = poll_job(node.run_dir, "node1").job
    assert job.ranks == {0: "0", 1: "0"}
    assert job.reason == ""
    until(lambda: not node.folder.control("node1").exists(), "control.json is removed")


def test_stop_ends_everything_in_order(new_node: NodeMaker) -> None:
    node = new_node("run", "child")
    assert node.start().state == "running"
    node.rank_pids(0), node.rank_pids(1)
    state = stop_job(node.run_dir, "node1", reason="enough")
    assert (state.state, state.reason, state.ranks) == ("stopped", "enough", {0: "130", 1: "130"})
    node.gone(0.5)


def test_rank_that_dies_takes_the_others_along_and_is_the_root_cause(new_node: NodeMaker) -> None:
    node = new_node("run", "kill")
    node.start()
    node.rank_pids(0)
    assert ended(node) == "failed"
    result = read_result(node.folder, "node1", 1)
    assert result is not None
    assert (result.status, result.root_cause, result.exit_code) == ("failed", True, 137)
    assert "signal 9 (SIGKILL)" in result.reason
    poll = poll_job(node.run_dir, "node1")
    assert poll.job.reason.startswith("rank 1: ended by signal 9 (SIGKILL)")
    assert [failure.rank for failure in poll.failed] == [1]
    assert poll.failed[0].tail == ("rank 1 does kill",)
    other = read_result(node.folder, "node1", 0)
    assert other is not None
    assert (other.status, other.root_cause) == ("stopped", False)
    node.gone()


def test_failing_rank_gives_its_exit_code_and_its_last_lines(new_node: NodeMaker) -> None:
    node = new_node("code:4")
    node.start()
    assert ended(node) == "failed"
    failed = poll_job(node.run_dir, "node1").failed
    assert failed[0].tail == ("rank 0 does code:4", "something went wrong")
    assert "exit code 4" in failed[0].reason
    assert failed[0].root_cause


def test_rank_whose_peer_failed_is_no_root_cause(new_node: NodeMaker) -> None:
    node = new_node("code:3")
    node.start()
    assert ended(node) == "failed"
    assert not poll_job(node.run_dir, "node1").failed[0].root_cause


def test_deaf_rank_is_killed_within_the_grace(new_node: NodeMaker) -> None:
    node = new_node("deaf", "run")
    node.start()
    node.rank_pids(0), node.rank_pids(1)
    before = time.monotonic()
    state = stop_job(node.run_dir, "node1", grace_s=1.0)
    assert time.monotonic() - before < 30.0  # it never ends by itself
    assert state.ranks == {0: "137", 1: "130"}
    result = read_result(node.folder, "node1", 0)
    assert result is not None
    assert (result.status, result.exit_code) == ("stopped", 130)
    assert "was killed" in result.reason
    node.gone(0.5)


@pytest.mark.parametrize("told", ["asked", "lease"])
def test_a_rank_that_loses_a_peer_after_it_was_told_to_stop_has_stopped(new_node: NodeMaker, told: str) -> None:
    """Where everybody is told so, a slow one is killed, and those who wait for it lose it."""
    node = new_node("loses", lease_s=1.0 if told == "lease" else None)
    node.start()
    node.rank_pids()
    if told == "asked":
        stop_job(node.run_dir, "node1", reason="enough")
    why = "enough" if told == "asked" else "the controller's lease ran out"
    until(lambda: poll_job(node.run_dir, "node1", renew=False).job.state == "stopped", "it has stopped", 10.0)
    result = read_result(node.folder, "node1", 0)
    assert result is not None
    assert (result.status, result.exit_code, result.root_cause) == ("stopped", 130, False)
    assert result.reason.startswith(why)
    assert result.reason.endswith("; then: rank 1 was lost: it closed the connection")
    assert poll_job(node.run_dir, "node1", renew=False).failed == ()
    node.gone()


def test_lease_that_nobody_renews_ends_the_run(new_node: NodeMaker) -> None:
    node = new_node("run", lease_s=1.2)
    node.start()
    node.rank_pids()
    followed_until = time.monotonic() + 3.5
    pause = threading.Event()
    while time.monotonic() < followed_until:
        assert poll_job(node.run_dir, "node1").job.state == "running"
        pause.wait(0.2)
    until(lambda: poll_job(node.run_dir, "node1", renew=False).job.state == "stopped", "the lease runs out", 5.0)
    reason = poll_job(node.run_dir, "node1").job.reason
    assert reason.startswith("the controller's lease ran out: nobody has renewed it for 1.2 s.")
    assert "-e ship_lease_s=3.6" in reason
    node.gone()


def test_detached_run_needs_no_lease(new_node: NodeMaker) -> None:
    node = new_node("run", lease_s=None)
    node.start()
    assert poll_job(node.run_dir, "node1", renew=False).job.state == "running"
    stop_job(node.run_dir, "node1")
    node.gone()


def test_ranks_die_with_a_killed_supervisor(new_node: NodeMaker) -> None:
    node = new_node("run", "deaf")
    pid = node.start().pid
    node.rank_pids(0), node.rank_pids(1)
    os.kill(pid, signal.SIGKILL)
    until(lambda: node.registry.active() is None, "the supervisor is dead")
    node.gone(2.0)
    poll = poll_job(node.run_dir, "node1")
    assert poll.job.state == "failed"
    assert f"(pid {pid}) ended without a word" in poll.job.reason
    assert all(failure.root_cause for failure in poll.failed)


def test_wedged_rank_of_a_killed_supervisor_is_ended_by_the_next_poll(new_node: NodeMaker) -> None:
    node = new_node("wedged")
    pid = node.start().pid
    node.rank_pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: node.registry.active() is None, "the supervisor is dead")
    assert poll_job(node.run_dir, "node1").job.state == "failed"
    node.gone(1.0)


def test_sigterm_is_a_stop(new_node: NodeMaker) -> None:
    node = new_node("run")
    pid = node.start().pid
    node.rank_pids()
    os.kill(pid, signal.SIGTERM)
    assert ended(node) == "stopped"
    assert "SIGTERM" in poll_job(node.run_dir, "node1").job.reason
    node.gone()


def test_bad_python_fails_with_the_way_out(new_node: NodeMaker) -> None:
    node = new_node("run", "run", python="/nowhere/python")
    state = node.start()
    assert state.state == "failed"
    assert state.reason == (
        "rank 0: cannot start /nowhere/python: No such file or directory. "
        "Set `python:` of node1 in the inventory, or run `ansible-playbook setup.yml`"
    )
    assert poll_job(node.run_dir, "node1").failed[0].root_cause
    until(lambda: node.registry.active() is None, "the supervisor has left")


def test_ranks_get_their_thread_counts_in_the_environment(new_node: NodeMaker) -> None:
    node = new_node("env", "env")
    node.start()
    assert ended(node) == "completed"
    assert node.folder.log("node1", 1).read_text().splitlines()[-1] == "2 2"


def test_poll_through_a_link_to_the_run(new_node: NodeMaker) -> None:
    node = new_node("run")
    node.start()
    node.rank_pids()
    link = node.workdir / "latest"
    link.symlink_to(node.run_dir.name)
    assert poll_job(link, "node1").job.state == "running"
    assert stop_job(link, "node1").state == "stopped"
    node.gone()
