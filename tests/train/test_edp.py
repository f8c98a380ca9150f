"""edp as ranks of a run: processes that the supervisor starts, or a test that plays one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from star_folders import star_plan
from test_one_rank import run as run_alone
from test_workers import ended, result, spawned
from train_folders import write_run

from smolcluster.models.hf import load_pretrained
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder
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
    alone = run_alone(tmp_path / "alone", data, max_steps=20)[1]
    with started(tmp_path / "run", data, star_plan((8,), max_steps=20)) as processes:
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
    assert worker.steps == server.steps == 20
    assert server.gradients.applied == server.gradients.pushed == 20
