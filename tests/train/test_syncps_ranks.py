"""syncps as ranks of a run: processes that the supervisor starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from star_folders import star_plan
from test_edp_ranks import started
from test_one_rank import run as run_alone
from test_workers import ended, result

from smolcluster.models.hf import load_pretrained
from smolcluster.runtime.runfolder import RunFolder
from tests.steps import read_metrics

# Everybody is on time, however busy the machine is.
PATIENT = {"syncps_timeout_s": 60.0}


@pytest.mark.parametrize("shares", [(8,), (4, 4), (3, 3, 2)], ids=str)
def test_all_on_time_it_trains_what_one_process_trains(tmp_path: Path, data: Path, shares: tuple[int, ...]) -> None:
    alone = run_alone(tmp_path / "alone", data, max_steps=20)[1]
    plan = star_plan(shares, "syncps", settings=PATIENT, max_steps=20, polyak_alpha=1.0)
    with started(tmp_path / "run", data, plan) as processes:
        assert ended(processes) == [0] * (1 + len(shares))
    server, *workers = (result(tmp_path / "run", rank) for rank in range(1 + len(shares)))
    assert server.val_loss == pytest.approx(alone.val_loss, abs=1e-5)
    ours, theirs = (load_pretrained(RunFolder(tmp_path / name).model) for name in ("run", "alone"))
    torch.testing.assert_close(ours.head, theirs.head, rtol=0, atol=2e-4)
    steps = read_metrics(RunFolder(tmp_path / "run").metrics("node1", 0))[0]
    before = read_metrics(RunFolder(tmp_path / "alone").metrics("node1", 0))[0]
    assert [one.step for one in steps] == list(range(1, 21))
    for mine, other in zip(steps, before, strict=True):
        assert mine.loss == pytest.approx(other.loss, abs=1e-5)
        assert mine.lr == pytest.approx(other.lr, abs=1e-12)
        assert mine.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)
        assert (mine.tokens, mine.staleness) == (other.tokens, 0)
    assert [one.steps for one in workers] == [20] * len(shares)
    assert server.gradients.applied == server.gradients.pushed == 20 * len(shares)


def test_a_server_that_trains_is_one_more_worker(tmp_path: Path, data: Path) -> None:
    alone = run_alone(tmp_path / "alone", data, max_steps=20)[1]
    plan = star_plan((3, 2), "syncps", settings={**PATIENT, "server_trains": True}, max_steps=20, polyak_alpha=1.0)
    ranks = (plan.ranks[0].model_copy(update={"samples": 3}), *plan.ranks[1:])
    plan = plan.model_copy(update={"ranks": ranks, "global_batch": 8})
    with started(tmp_path / "run", data, plan) as processes:
        assert ended(processes) == [0, 0, 0]
    server, *workers = (result(tmp_path / "run", rank) for rank in range(3))
    assert server.val_loss == pytest.approx(alone.val_loss, abs=1e-5)
    steps = read_metrics(RunFolder(tmp_path / "run").metrics("node1", 0))[0]
    before = read_metrics(RunFolder(tmp_path / "alone").metrics("node1", 0))[0]
    assert [one.step for one in steps] == list(range(1, 21))
    assert [one.loss for one in steps] == pytest.approx([one.loss for one in before], abs=1e-5)
    assert [one.tokens for one in workers] == [20 * 3 * 16, 20 * 2 * 16]
    assert server.tokens == 20 * 8 * 16
    assert server.gradients.applied == server.gradients.pushed == 60
