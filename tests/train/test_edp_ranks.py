"""edp as ranks of a run: processes that the supervisor starts, or a test that plays one."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from star_folders import star_plan
from test_one_rank import run as run_alone
from test_workers import DEADLINE_S, ended, result, spawned, until_step
from train_folders import write_run

from smolcluster.jobs.nodefile import load_node
from smolcluster.models.hf import load_pretrained
from smolcluster.observe.report import read_run
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.train.star.part import star_part
from tests.jobs.node import until
from tests.steps import read_metrics


@contextlib.contextmanager
def started(folder: Path, data: Path, plan: Plan) -> Iterator[list]:
    """The processes of a run, a node for each rank."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(spawned(node_yaml, rank, RunFolder(folder).log(f"node{rank + 1}", rank)))
            for rank, node_yaml in enumerate(write_run(folder, plan, data, sys.executable))
        ]


def test_one_worker_trains_what_one_process_trains(tmp_path: Path, data: Path) -> None:
    alone = run_alone(tmp_path / "alone", data, max_steps=20, track_gradients=True)[1]
    with started(tmp_path / "run", data, star_plan((8,), max_steps=20, track_gradients=True)) as processes:
        assert ended(processes) == [0, 0]
    server, worker = (result(tmp_path / "run", rank) for rank in range(2))
    assert server.loss_last == pytest.approx(alone.loss_last, abs=1e-5)
    assert server.val_loss == pytest.approx(alone.val_loss, abs=1e-5)
    ours, theirs = (load_pretrained(RunFolder(tmp_path / name).model) for name in ("run", "alone"))
    torch.testing.assert_close(ours.head, theirs.head, rtol=0, atol=2e-4)
    steps = read_metrics(RunFolder(tmp_path / "run").metrics("node1", 0))[0]
    before = read_metrics(RunFolder(tmp_path / "alone").metrics("node1", 0))[0]
    assert [one.step for one in steps] == list(range(1, 21))
    for ours, theirs in zip(steps, before, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.lr == pytest.approx(theirs.lr, abs=1e-12)
    tracked = [read_run(tmp_path / name).ranks[0].gradients for name in ("run", "alone")]
    assert [[one.step for one in records] for records in tracked] == [[5, 10, 15, 20]] * 2
    for ours, theirs in zip(*tracked, strict=True):
        assert ours.norms == pytest.approx(theirs.norms, rel=1e-3, abs=1e-5)
    assert worker.steps == server.steps == 20
    assert server.gradients.applied == server.gradients.pushed == 20
    # Measured on a copy meanwhile; one that was due while another was at work is left out.
    measured = {one.step: one.val_loss for one in steps if one.val_loss is not None}
    expected = {one.step: one.val_loss for one in before if one.val_loss is not None}
    assert measured.keys() <= expected.keys()
    assert 20 in measured
    for step, loss in measured.items():
        assert loss == pytest.approx(expected[step], abs=1e-5)


def test_numbers_that_go_wrong_end_all_and_leave_no_model(tmp_path: Path, data: Path) -> None:
    with started(tmp_path, data, star_plan((4, 4), learning_rate=1e30, grad_clip_norm=None)) as processes:
        codes = ended(processes)
    assert codes[0] == 4
    assert set(codes[1:]) <= {3, 4}
    assert result(tmp_path, 0).final
    assert all(result(tmp_path, rank).final for rank in (1, 2))  # nobody is started again
    assert not RunFolder(tmp_path).model.exists()


def test_only_the_server_listens_and_on_its_own_address_alone(tmp_path: Path, data: Path) -> None:
    with started(tmp_path, data, star_plan((4, 4), max_steps=100_000, eval_steps=100_000)) as processes:
        for rank in range(3):
            until_step(tmp_path, rank, 2)
        listening = [
            {each.laddr.ip for each in psutil.Process(one.pid).net_connections("inet") if each.status == "LISTEN"}
            for one in processes
        ]
        assert listening == [{"127.0.0.1"}, set(), set()]
        for rank in range(3):  # and all know how long the ways to the others take
            until(lambda rank=rank: others(tmp_path, rank) == ({0} if rank else {1, 2}), "pings come back", DEADLINE_S)


def others(folder: Path, rank: int) -> set[int]:
    """The ranks to which a rank's link was recorded, with a ping that came back."""
    links = read_metrics(RunFolder(folder).metrics(f"node{rank + 1}", rank))[1]
    assert all(link.node == f"node{link.peer + 1}" for link in links)
    return {link.peer for link in links if link.rtt_by == "ping" and link.rtt_ms}


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_leaves_and_the_server_s_stop_ends_all(tmp_path: Path, data: Path) -> None:
    with started(tmp_path, data, star_plan((4, 4), max_steps=100_000, eval_steps=100_000)) as processes:
        for rank in range(3):
            until_step(tmp_path, rank, 2)
        ask(processes[1])
        assert processes[1].wait(DEADLINE_S) == 130
        seen = result(tmp_path, 1).steps, len(read_metrics(RunFolder(tmp_path).metrics("node3", 2))[0])
        until_step(tmp_path, 2, seen[1] + 5)
        ask(processes[0])
        assert ended(processes) == [130, 130, 130]
    results = [result(tmp_path, rank) for rank in range(3)]
    assert [one.status for one in results] == ["stopped"] * 3
    assert (RunFolder(tmp_path).model / "config.json").exists()
    account = results[0].gradients
    # What was still on its way to the server when it ended is told of by the worker alone.
    assert account.applied + sum(account.refused.values()) == account.pushed
    assert account.refused.keys() <= {"the run was over"}
    assert 0 <= sum(one.steps for one in results[1:]) - account.applied <= 1
    assert results[0].tokens == account.applied * 4 * 16


def test_a_server_that_fails_once_is_looked_for_by_its_workers(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next start may mend is nothing that ends the workers."""
    plan = star_plan((4, 4), max_steps=20)
    files = write_run(tmp_path, plan, data, sys.executable)

    def serve() -> int:
        return star_part(load_node(files[0]), plan, plan.ranks[0], lambda: False)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(spawned(files[rank], rank, RunFolder(tmp_path).log(f"node{rank + 1}", rank)))
            for rank in (1, 2)
        ]
        monkeypatch.setattr("smolcluster.train.star.part.write_model", full)
        assert serve() == 1
        assert not result(tmp_path, 0).final
        monkeypatch.undo()
        assert serve() == 0
        assert ended(workers) == [0, 0]
    assert (RunFolder(tmp_path).model / "config.json").exists()
    assert [result(tmp_path, rank).generation for rank in range(3)] == [1, 1, 1]


def test_a_server_without_a_worker_ends_at_its_deadline(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolcluster.comm.config.JOIN_S", 0.5)
    plan = star_plan((4, 4), timeout_s=1.0)
    config = load_node(write_run(tmp_path, plan, data, sys.executable)[0])
    assert star_part(config, plan, plan.ranks[0], lambda: False) == 3
    left = result(tmp_path, 0)
    assert left.final  # it would be alone again
    assert "no worker was here for 1 s" in left.reason
    assert not RunFolder(tmp_path).model.exists()


def ask(process) -> None:
    process.stdin.write(b"stop\n")
    process.stdin.flush()
