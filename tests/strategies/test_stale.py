"""Ranks under a staleness bound: equal to the bit at every fence, nothing lost, and nobody too far ahead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stale_jobs import (
    asked_to_stop,
    build_of,
    garbled,
    one_is_stuck,
    poisoned,
    resumed,
    resumed_by_torch,
    train_with_fences,
)
from strategy_jobs import train
from strategy_pool import Pool

SHARES = {2: (3, 3), 3: (2, 2, 2)}
UNEVEN = {2: (5, 1), 3: (1, 4, 2)}
KINDS = [("classicdp", None), ("stage 0", 0), ("stage 1", 1), ("stage 2", 2)]


def assert_fenced(ranks: list[dict[str, Any]], bound: int, steps: int, fence_every: int) -> None:
    """What each rank must have at its fences; the jobs themselves look at their owners' accounts."""
    first = ranks[0]
    assert len(set(first["digests"])) == steps // fence_every
    for rank in ranks:
        assert rank["digests"] == first["digests"]
        assert rank["fenced"] == first["fenced"]
        assert rank["tokens"] == first["tokens"]
        assert rank["evaluated"] == first["evaluated"]
        assert rank["drained"] == [len(ranks) * fence_every] * (steps // fence_every)
        # AdamW's count is the run's at a fence, whatever an owner's updates were.
        fences = range(fence_every, steps + 1, fence_every)
        assert [set(counts) for counts in rank["counts"]] == [{fence} for fence in fences]
        assert sorted(rank["applied"]) == [(r, s) for r in range(len(ranks)) for s in range(1, steps + 1)]
        assert all(0 <= lag <= bound for lags in rank["lags"] for lag in lags)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("stage", [stage for _, stage in KINDS], ids=[name for name, _ in KINDS])
@pytest.mark.parametrize("shares", [SHARES, UNEVEN], ids=["even", "uneven"])
def test_replicas_are_equal_at_every_fence(
    pool: Pool, stage: int | None, world_size: int, shares: dict[int, tuple[int, ...]]
) -> None:
    ranks = pool.run("smol", world_size, train_with_fences, shares[world_size], 2, stage, 12, 4)
    assert_fenced(ranks, 2, 12, 4)
    assert ranks[0]["tokens"] == [8 * sum(shares[world_size])] * 3


@pytest.mark.parametrize("wire", ["int8", "bf16", "fp16"])
def test_with_other_formats_and_several_buckets(pool: Pool, wire: str) -> None:
    ranks = pool.run("smol", 3, train_with_fences, (2, 2, 2), 3, 1, 12, 6, "gpt", (), wire, 4000)
    assert_fenced(ranks, 3, 12, 6)


def test_a_rank_without_samples_takes_part(pool: Pool) -> None:
    ranks = pool.run("smol", 3, train_with_fences, (3, 0, 2), 2, 1, 8, 4)
    assert_fenced(ranks, 2, 8, 4)
    assert ranks[1]["norms"] == [0.0] * 8


def test_a_rank_that_is_late_holds_the_others_up_at_the_bound_only(pool: Pool) -> None:
    ranks = pool.run("smol", 2, train_with_fences, (3, 3), 3, None, 12, 12, "tiny", (0.0, 0.05))
    assert_fenced(ranks, 3, 12, 12)
    assert max(max(lags) for lags in ranks[0]["lags"]) == 3  # it ran ahead
    # What the late rank sees has all of the quick one's, and its own.
    assert ranks[1]["lags"][-1] == (0, 0)


def test_a_fence_after_every_step_is_one_process_on_the_union(pool: Pool) -> None:
    # Without clipping, which is each rank's own here: then a step is the average's, in one update or in parts.
    ranks = pool.run("smol", 2, train_with_fences, (3, 3), 4, 1, 1, 1)
    alone = train(0, 1, "single", 1, (6,), 1)
    assert ranks[0]["fenced"] == pytest.approx(alone["losses"], abs=1e-5)


def test_half_precision_scales_its_own_losses(pool: Pool) -> None:
    ranks = pool.run("smol", 2, fp16_steps)
    assert_fenced(ranks, 2, 8, 4)


def test_a_run_goes_on_from_a_fence_with_any_other_strategy_and_world_size(pool: Pool) -> None:
    ranks = pool.run("smol", 3, train_with_fences, (2, 2, 2), 2, 1, 6, 3)
    given = [part for rank in ranks for part in rank["slices"]]
    assert resumed(0, 1, None, 0, given)[0] == ranks[0]["evaluated"]
    for bound, stage in [(3, 2), (0, 2), (0, 3)]:
        told = pool.run("smol", 2, resumed, stage, bound, given)
        assert told[0] == told[1]
        assert told[0][0] == pytest.approx(ranks[0]["evaluated"], abs=1e-6)


def test_a_run_without_a_bound_goes_on_as_torch_would_from_the_same_step(pool: Pool) -> None:
    # Rank 0 is ahead of the others: it takes more updates than there are steps.
    ranks = pool.run("smol", 3, train_with_fences, (2, 2, 2), 2, 1, 6, 6, "tiny", (0.0, 0.02, 0.02))
    given = [part for rank in ranks for part in rank["slices"]]
    (count,) = [tensor for name, _, _, tensor in given if name == "optim.step"][:1]
    assert count.item() == 6
    expected = resumed_by_torch(given, 6)
    for stage in (None, 1, 3):
        assert pool.run("smol", 2, resumed, stage, 0, given)[0] == pytest.approx(expected, rel=1e-5)


def test_a_wish_to_stop_is_everybody_s_after_the_same_step(pool: Pool) -> None:
    assert pool.run("smol", 3, asked_to_stop, 2) == [5, 5, 5]  # asked in its second step: 2 + 2 + 1


def test_a_loss_that_is_no_number_ends_the_run_and_names_its_rank(pool: Pool) -> None:
    outcomes = pool.outcomes("smol", 2, poisoned)
    assert outcomes[1] == (True, "1: the loss of rank 1 is not finite")
    good, said = outcomes[0]
    assert not good or "rank 1" in said


@pytest.mark.parametrize(
    ("fence", "said"),
    [
        (False, "rank 1 has sent no gradient of step 3; rank {} waited 1.5 s for it, under a staleness bound of 2"),
        (True, "rank 1 has not said that it rests after step 2; that was waited for 1.5 s"),
    ],
    ids=["in a step", "at a fence"],
)
def test_a_rank_that_is_stuck_is_named_at_the_deadline(pool: Pool, fence: bool, said: str) -> None:
    """And not one that waits for it, too; all are told the same."""
    told = {text.partition(" (seen by")[0] for text in pool.run("smol", 3, one_is_stuck, fence, 1.5)}
    assert told <= {said.format(0), said.format(2)}
    assert len(told) == 1


def test_what_fails_at_a_fence_is_told_at_once(pool: Pool) -> None:
    """And not when the wait for another rank runs out."""
    told = pool.run("smol", 3, garbled)
    assert told[0] == "rank 1 sent a message of the unknown kind 255"
    assert all(told[0] in text for text in told)


def test_state_is_read_at_fences_only_and_stage_3_is_refused(pool: Pool) -> None:
    told = pool.run("smol", 2, build_of)
    assert told[0] == [
        "the state was asked for after step 1, which was not fenced",
        "the state was asked for after step 1, which was not fenced",
        "stage 3 takes no staleness_bound: forward and backward would gather different versions",
    ]


def fp16_steps(rank: int, world_size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    return train_with_fences(rank, world_size, (2, 2), 2, 1, 8, 4, precision="fp16")
