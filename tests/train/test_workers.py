"""Several ranks as the supervisor starts them: real processes, a pipe as stdin, result.json and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_one_rank import run as run_alone
from train_folders import plan_of, run_spec, write_run

from smolcluster.models.hf import load_pretrained
from smolcluster.runtime.runfolder import RankResult, RunFolder
from tests.jobs.node import until
from tests.steps import read_metrics

DEADLINE_S = 90.0


@contextlib.contextmanager
def spawned(node_yaml: Path, rank: int, log: Path) -> Iterator[subprocess.Popen]:
    """One rank's process; whatever happens it does not outlive the test."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "smolcluster.worker", str(node_yaml), "--rank", str(rank)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


@contextlib.contextmanager
def started(
    folder: Path,
    data: Path,
    shares: tuple[int, ...],
    strategy: str = "fsdp",
    stage: int = 1,
    network: bool = True,
    **training,
):
    """The processes of a run, a node for each rank. `network`: whether it tracks network metrics."""
    run = run_spec(strategy, shares, stage, **training)
    comm = run.comm.model_copy(update={"track_network_metrics": network})
    plan = plan_of(run.model_copy(update={"comm": comm}), shares)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(spawned(node_yaml, rank, RunFolder(folder).log(f"node{rank + 1}", rank)))
            for rank, node_yaml in enumerate(write_run(folder, plan, data, sys.executable))
        ]


def ended(processes: list[subprocess.Popen]) -> list[int]:
    deadline = time.monotonic() + DEADLINE_S
    return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]


def result(folder: Path, rank: int) -> RankResult:
    return RankResult.model_validate_json(RunFolder(folder).result(f"node{rank + 1}", rank).read_bytes())


def until_step(folder: Path, rank: int, step: int) -> None:
    """Wait until a rank has made that step."""
    metrics = RunFolder(folder).metrics(f"node{rank + 1}", rank)
    until(lambda: len(read_metrics(metrics)[0]) >= step, f"rank {rank} gets to step {step}", DEADLINE_S)


@pytest.mark.parametrize(
    ("strategy", "stage", "shares"),
    [("classicdp", 0, (5, 3)), ("fsdp", 1, (2, 5, 1)), ("fsdp", 2, (5, 3)), ("fsdp", 3, (2, 5, 1))],
)
def test_ranks_train_what_one_process_trains(
    tmp_path: Path, data: Path, strategy: str, stage: int, shares: tuple[int, ...]
) -> None:
    alone = run_alone(tmp_path / "alone", data)[1]
    with started(tmp_path / "run", data, shares, strategy, stage) as processes:
        assert ended(processes) == [0] * len(shares)
    results = [result(tmp_path / "run", rank) for rank in range(len(shares))]
    for one in results:
        assert one.status == "completed"
        assert one.loss_last == pytest.approx(alone.loss_last, abs=1e-5)
        assert one.val_loss == pytest.approx(alone.val_loss, abs=1e-5)
        assert one.transport == "smol"
        assert one.wire_bytes_out > 0
    assert sum(one.tokens for one in results) == alone.tokens
    ours, theirs = (load_pretrained(RunFolder(tmp_path / name).model) for name in ("run", "alone"))
    torch.testing.assert_close(ours.head, theirs.head, rtol=0, atol=2e-4)
    steps, links = read_metrics(RunFolder(tmp_path / "run").metrics("node1", 0))
    assert all(record.bytes_out > 0 for record in steps)
    assert {link.step for link in links} == {5, 10}
    others = {peer: f"node{peer + 1}" for peer in range(1, len(shares))}
    assert {link.peer: link.node for link in links} == others
    assert {link.address for link in links} == {"127.0.0.1"}
    # Steps count what links do, but for what is said between them.
    moved = sum((link.bytes_out or 0) + (link.bytes_in or 0) for link in links)
    assert moved >= sum(record.bytes_out + record.bytes_in for record in steps if record.step <= 10)


def test_links_are_not_recorded_where_nobody_wants_to_know(tmp_path: Path, data: Path) -> None:
    with started(tmp_path, data, (2, 2), network=False) as processes:
        assert ended(processes) == [0, 0]
    for rank in range(2):
        steps, links = read_metrics(RunFolder(tmp_path).metrics(f"node{rank + 1}", rank))
        assert len(steps) == 12
        assert links == ()


@pytest.mark.parametrize("stage", [1, 3])
def test_stop_asked_of_one_rank_ends_all_with_a_model(tmp_path: Path, data: Path, stage: int) -> None:
    with started(tmp_path, data, (2, 2), stage=stage, max_steps=100_000, eval_steps=100_000) as processes:
        until_step(tmp_path, 0, 3)
        processes[1].stdin.write(b"stop\n")
        processes[1].stdin.flush()
        assert ended(processes) == [130, 130]
    results = [result(tmp_path, rank) for rank in range(2)]
    assert [one.status for one in results] == ["stopped", "stopped"]
    assert results[0].steps == results[1].steps
    assert (RunFolder(tmp_path).model / "config.json").exists()


@pytest.mark.parametrize("stage", [1, 3])
def test_a_killed_rank_ends_the_others_with_exit_3(tmp_path: Path, data: Path, stage: int) -> None:
    with started(tmp_path, data, (2, 2, 2), stage=stage, max_steps=100_000, eval_steps=100_000) as processes:
        until_step(tmp_path, 0, 3)
        processes[1].send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert ended(processes) == [3, -signal.SIGKILL, 3]
        assert time.monotonic() - began < 18  # a rank that only falls silent is missed after 20
    for rank in (0, 2):
        one = result(tmp_path, rank)
        assert (one.status, one.exit_code, one.root_cause) == ("failed", 3, False)
        assert "rank 1" in one.reason
        log = RunFolder(tmp_path).log(f"node{rank + 1}", rank).read_text()
        assert "Traceback" not in log


def test_end_of_file_on_stdin_ends_a_rank(tmp_path: Path, data: Path) -> None:
    with started(tmp_path, data, (2, 2), max_steps=100_000, eval_steps=100_000) as processes:
        until_step(tmp_path, 0, 2)
        for process in processes:
            process.stdin.close()
        assert ended(processes) == [130, 130]


def test_numbers_that_go_wrong_end_all_with_exit_4_and_no_model(tmp_path: Path, data: Path) -> None:
    with started(tmp_path, data, (2, 2), learning_rate=1e30, grad_clip_norm=None) as processes:
        assert ended(processes) == [4, 4]
    assert "is not finite" in result(tmp_path, 0).reason
    assert result(tmp_path, 0).root_cause
    assert not RunFolder(tmp_path).model.exists()


def test_a_plan_that_was_changed_is_refused(tmp_path: Path, data: Path) -> None:
    plan = plan_of(run_spec("single", (2,)), (2,))
    [node_yaml] = write_run(tmp_path, plan, data, sys.executable)
    RunFolder(tmp_path).plan.write_text(plan.to_json().replace('"seed": 11', '"seed": 12'))
    with spawned(node_yaml, 0, tmp_path / "log.txt") as process:
        assert process.wait(DEADLINE_S) == 2
    log = (tmp_path / "log.txt").read_text()
    assert "not the plan node.yaml was made for" in log
    assert "Traceback" not in log
