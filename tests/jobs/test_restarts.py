"""Ranks that die are started again, as often as the run says, and never where that cannot help."""

from __future__ import annotations

import os
import signal

import pytest

from smolcluster.jobs.poll import poll_job
from smolcluster.jobs.restarts import Restarts
from smolcluster.jobs.state import read_state
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.stopping import StopOrder
from smolcluster.runtime.generation import GenerationNote, write_generation
from smolcluster.runtime.results import keep_finished, write_result
from smolcluster.runtime.runfolder import JobState, RankResult
from smolcluster.spec.run import RecoverySpec

from .conftest import NodeMaker
from .node import FakeNode, until


def ended(node: FakeNode) -> JobState:
    until(lambda: poll_job(node.run_dir, node.node).job.state in ("completed", "failed", "stopped"), "the job ends")
    return poll_job(node.run_dir, node.node).job


def test_a_rank_that_is_killed_is_started_again_with_the_others(new_node: NodeMaker) -> None:
    node = new_node("run|done", "kill|done", max_restarts=3)
    node.start()
    job = ended(node)
    assert (job.state, job.restarts, job.ranks) == ("completed", 1, {0: "0", 1: "0"})
    assert job.restart_reason.startswith("rank 1: ended by signal 9")
    assert job.restart_ours
    for rank, first in enumerate(("run", "kill")):
        lines = node.folder.log("node1", rank).read_text().splitlines()
        assert lines[0] == f"rank {rank} does {first}"
        assert lines[1].startswith("---- restart 1 of 3: rank 1: ended by signal 9")
        assert lines[2] == f"rank {rank} does done"
    node.gone()


def test_a_rank_that_lost_a_peer_is_started_again_too(new_node: NodeMaker) -> None:
    node = new_node("code:3|done", max_restarts=1)
    node.start()
    job = ended(node)
    assert (job.state, job.restarts, job.restart_ours) == ("completed", 1, False)


def test_restarts_are_counted_and_end(new_node: NodeMaker) -> None:
    node = new_node("kill", max_restarts=2)
    node.start()
    job = ended(node)
    assert (job.state, job.restarts) == ("failed", 2)
    assert (node.file.parent / "starts-0").stat().st_size == 3


@pytest.mark.parametrize("behaviour", ["code:2", "code:4", "code:130", "done"])
def test_what_would_end_the_same_way_is_not_tried_again(new_node: NodeMaker, behaviour: str) -> None:
    node = new_node(behaviour, max_restarts=3)
    node.start()
    assert ended(node).restarts == 0
    assert (node.file.parent / "starts-0").stat().st_size == 1


@pytest.mark.parametrize(
    ("codes", "changes", "order", "asked", "due"),
    [
        ({0: -9, 1: 130}, {}, StopOrder("failed", "rank 0 of this node failed", 1), False, True),
        ({0: 3}, {}, None, False, True),
        ({0: 1}, {}, None, False, True),
        ({0: 3}, {"final": True}, None, False, False),
        ({0: -9}, {"finished": True}, None, False, False),
        ({0: 0, 1: -9}, {}, None, False, False),
        ({0: 3}, {}, StopOrder("stopped", "enough", 1), False, False),
        ({0: 3}, {}, None, True, False),
        ({0: 130}, {}, None, False, False),
        ({0: 127}, {}, None, False, False),
    ],
)
def test_when_a_restart_is_due(
    codes: dict[int, int], changes: dict[str, bool], order: StopOrder | None, asked: bool, due: bool
) -> None:
    result = RankResult(rank=0, node="n", status="failed", exit_code=3, **changes)
    restarts = Restarts(RecoverySpec(max_restarts=1), "fsdp", None)
    assert restarts.due(codes, [result], order, asked) is due
    assert restarts.count == due
    assert not restarts.due(codes, [result], order, asked), "there was one to be had"
    assert not Restarts(RecoverySpec(max_restarts=1), "edp", None).due(codes, [result], order, asked)


def test_a_stop_ends_a_run_whose_ranks_keep_dying(new_node: NodeMaker) -> None:
    node = new_node("kill", max_restarts=1_000_000)
    node.start()
    until(lambda: poll_job(node.run_dir, "node1").job.restarts > 2, "it is started again and again")
    stop_job(node.run_dir, "node1")
    node.gone()


def test_a_lost_lease_ends_a_run_whose_ranks_keep_dying(new_node: NodeMaker) -> None:
    node = new_node("kill", max_restarts=1_000_000, lease_s=0.4)
    node.start()
    until(lambda: node.registry.active() is None, "the run ends with its lease", 10)
    assert poll_job(node.run_dir, "node1").job.state != "completed"


def test_whoever_takes_a_run_over_from_a_dead_supervisor_counts_on(new_node: NodeMaker) -> None:
    node = new_node("run|done", max_restarts=3)
    pid = node.start().pid
    node.rank_pids()
    write_generation(node.folder, "node1", 0, GenerationNote(generation=5, step=40))
    os.kill(pid, signal.SIGKILL)
    until(lambda: node.registry.active() is None, "the supervisor is dead")
    lost = poll_job(node.run_dir, "node1").job
    assert (lost.state, lost.lost, lost.restarts, lost.generation, lost.resumed_step) == ("failed", True, 0, 5, 40)
    node.start()
    job = ended(node)
    assert (job.state, job.lost, job.restarts) == ("completed", False, 1)
    assert f"(pid {pid}) ended without a word" in job.restart_reason
    assert read_state(node.folder, "node1").generation == 5
    node.gone()


def finished(node: FakeNode, **changes: object) -> None:
    result = RankResult(rank=0, node="node1", status="completed", exit_code=0, finished=True)
    write_result(node.folder, result.model_copy(update=changes))


def test_a_rank_that_is_killed_when_its_work_was_done_was_done(new_node: NodeMaker) -> None:
    node = new_node("run", max_restarts=3)
    node.start()
    (pid,) = node.rank_pids()
    finished(node)
    os.kill(pid, signal.SIGKILL)
    job = ended(node)
    assert (job.state, job.restarts, job.ranks) == ("completed", 0, {0: "0"})


def test_a_rank_that_fails_when_its_work_was_done_is_done_if_another_here_knows_that_all_are(
    new_node: NodeMaker,
) -> None:
    node = new_node("run", "done", max_restarts=3)
    keep_finished(node.folder, RankResult(rank=0, node="node1", status="completed", exit_code=0, finished=True))
    node.start()
    os.kill(node.rank_pids()[0], signal.SIGKILL)
    job = ended(node)
    assert (job.state, job.restarts, job.ranks) == ("completed", 0, {0: "0", 1: "0"})


def test_a_supervisor_that_takes_over_finished_work_starts_nothing(new_node: NodeMaker) -> None:
    node = new_node("run", max_restarts=3)
    pid = node.start().pid
    node.rank_pids()
    finished(node)
    os.kill(pid, signal.SIGKILL)
    until(lambda: node.registry.active() is None, "the supervisor is dead")
    assert poll_job(node.run_dir, "node1").job.lost
    node.start()
    assert ended(node).state == "completed"
    assert (node.file.parent / "starts-0").stat().st_size == 1
    node.gone()
