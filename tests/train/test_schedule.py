from __future__ import annotations

import pytest
import torch

from smolcluster.runtime.schedule import learning_rate
from smolcluster.runtime.seeding import derive_seed, seed_step
from smolcluster.spec.run import ScheduleSpec

SCHEDULE = ScheduleSpec(warmup_iters=10, min_lr=1e-4)


def test_warms_up_peaks_and_ends_at_the_minimum() -> None:
    rates = [learning_rate(step, 100, 1e-3, SCHEDULE) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx((1e-3 + 1e-4) / 2)
    assert rates[-1] == pytest.approx(1e-4)


def test_runs_without_warm_up_or_shorter_than_it() -> None:
    assert learning_rate(1, 1, 1e-3, ScheduleSpec(warmup_iters=0, min_lr=0)) == pytest.approx(0)
    # A server asks before its first step.
    assert learning_rate(0.0, 9, 1e-3, ScheduleSpec(warmup_iters=0, min_lr=0)) == pytest.approx(1e-3)
    assert learning_rate(0.0, 9, 1e-3, SCHEDULE) == 0
    assert learning_rate(5, 5, 1e-3, SCHEDULE) == pytest.approx(5e-4)
    assert learning_rate(50, 100, 1e-5, SCHEDULE) == pytest.approx(1e-5)


def test_every_step_and_rank_draws_its_own_numbers_again_and_again() -> None:
    seeds = {derive_seed(7, step, rank) for step in range(50) for rank in range(4)}
    assert len(seeds) == 200
    seed_step(7, 3, 1)
    first = torch.rand(4)
    seed_step(7, 3, 1)
    assert torch.equal(first, torch.rand(4))
