"""mp with replicas of its stages: pipelines side by side take the step of one process, and stay equal to the bit."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from mp_jobs import resume as resume_others
from mp_jobs import slices_after as slices_of_one_pipeline
from mp_jobs import train as train_whole
from mp_replica_jobs import bytes_of_a_step, drift, given_weights, one_is_stuck, poisoned, resume, slices_after, train
from strategy_pool import Pool
from test_mp import assert_equal

from smolcluster.plan.grid import Grid

STEPS, SAMPLES = 20, 8
EVEN, UNEVEN, THREE = ((0, 2), (2, 4)), ((0, 1), (1, 4)), ((0, 1), (1, 3), (3, 4))
NN = ((0, 1), (1, 2))
# So small that every stage has several buckets.
BUCKET = 2000


@functools.cache
def oracle(kind: str, precision: str = "fp32") -> dict[str, Any]:
    got: dict[str, Any] = train_whole(0, 1, kind, (), SAMPLES, 1, STEPS, False, precision)
    return got


def assert_replicas_equal(ranks: list[dict[str, Any]], grid: Grid) -> None:
    """To the bit, after every step."""
    for stage in range(grid.stages):
        first, *others = (ranks[rank]["after"] for rank in grid.stage(stage))
        for after in others:
            assert len(after) == len(first)
            assert all(torch.equal(one, other) for one, other in zip(after, first, strict=True))


def assert_equals_single(ranks: list[dict[str, Any]], grid: Grid, expected: dict[str, Any]) -> None:
    """The evaluation is shared out over the pipelines, whose last stages have it."""
    lasts = {grid.pipeline(number)[-1] for number in range(grid.replicas)}
    told = [got["evaluated"] for got in ranks]
    assert all(told[rank] == (0.0, 0, 0) for rank in range(len(ranks)) if rank not in lasts)
    assert all(told[rank][1] > 0 for rank in lasts)
    # Then as of one pipeline, which test_mp compares.
    one = [{**got, "evaluated": (0.0, 0, 0)} for got in ranks]
    one[-1]["evaluated"] = expected["evaluated"]
    assert_equal(one, expected)


@pytest.mark.parametrize("micros", [1, 4])
@pytest.mark.parametrize("bounds", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", ["gpt", "untied gpt"])
def test_two_pipelines_of_two_stages_equal_single(pool: Pool, kind: str, bounds: Any, micros: int) -> None:
    grid = Grid(2, 2)
    ranks = pool.run("smol", 4, train, kind, bounds, (4, 4), micros, STEPS, BUCKET)
    assert min(rank["buckets"] for rank in ranks) > 3
    assert_equals_single(ranks, grid, oracle(kind))
    assert_replicas_equal(ranks, grid)
    if kind == "gpt":  # all four places of a tied embedding
        assert all(torch.equal(rank["tied"], ranks[0]["tied"]) for rank in ranks)


@pytest.mark.parametrize(
    ("kind", "bounds", "shares", "micros"),
    [
        ("nn", NN, (4, 4), 4),
        ("llama", UNEVEN, (4, 4), 4),
        ("untied llama", EVEN, (4, 4), 1),
        ("gpt", UNEVEN, (5, 3), 4),
        ("gpt", ((0, 4),), (3, 2, 3), 2),
    ],
    ids=["nn", "llama", "untied llama", "uneven shares", "one stage on three"],
)
def test_every_kind_of_model_and_share(pool: Pool, kind: str, bounds: Any, shares: Any, micros: int) -> None:
    """Tokens weigh, not pipelines; and with one stage it is data parallelism."""
    grid = Grid(len(bounds), len(shares))
    ranks = pool.run("smol", grid.stages * grid.replicas, train, kind, bounds, shares, micros, STEPS, BUCKET)
    assert_equals_single(ranks, grid, oracle(kind))
    assert_replicas_equal(ranks, grid)


def test_float16_s_scale_moves_alike_everywhere(pool: Pool) -> None:
    whole = oracle("gpt", "fp16")
    ranks = pool.run("smol", 4, train, "gpt", EVEN, (4, 4), 4, STEPS, BUCKET, "fp16")
    assert_replicas_equal(ranks, Grid(2, 2))
    for got in ranks:
        torch.testing.assert_close(got["losses"], whole["losses"], rtol=0, atol=5e-3)
        assert got["scales"] == whole["scales"]


def test_over_gloo_too(pool: Pool) -> None:
    grid = Grid(2, 2)
    ranks = pool.run("gloo", 4, train, "gpt", EVEN, (4, 4), 4, STEPS)
    assert_equals_single(ranks, grid, oracle("gpt"))
    assert_replicas_equal(ranks, grid)


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_replicas_sum_in_the_wire_s_format(pool: Pool, wire: str) -> None:
    ranks = pool.run("smol", 4, train, "gpt", UNEVEN, (4, 4), 4, STEPS, BUCKET, "fp32", wire)
    assert_replicas_equal(ranks, Grid(2, 2))
    exact = oracle("gpt")["losses"]
    for got in ranks:
        assert got["losses"] != exact
        torch.testing.assert_close(got["losses"], exact, rtol=0, atol=2e-2)


def test_a_step_sends_what_it_must(pool: Pool) -> None:
    """Hidden states of a share, a tied embedding from each end, and around a ring of two once the stage; then a little
    of what all agree on."""
    samples, length, width = 4, 8, 24
    hidden = samples * length * width * 4
    for got in pool.run("smol", 4, bytes_of_a_step, "gpt", EVEN, (samples, samples)):
        payload = hidden + got["tied"] + got["line"]
        assert payload < got["sent"] < payload + 2000
    for got in pool.run("smol", 4, bytes_of_a_step, "untied gpt", EVEN, (samples, samples)):
        assert got["tied"] == 0
        assert hidden + got["line"] < got["sent"] < hidden + got["line"] + 2000


def test_a_replica_or_an_end_that_drifted_is_equal_again(pool: Pool) -> None:
    """Rank 3 is the last stage's second replica; rank 1 its first, whose values the other then takes too."""
    for odd, said in ((3, "parameters of rank 3 drifted from rank 1's"), (1, "rank 3 drifted from rank 1's")):
        got = pool.run("smol", 4, drift, "gpt", EVEN, (4, 4), odd)
        told, params = zip(*got, strict=True)
        assert torch.equal(params[0], params[2])
        assert torch.equal(params[1], params[3])
        assert said in told[1]
        assert said in told[3]
        assert "parameters" not in told[0] + told[2]
    untouched = pool.run("smol", 4, drift, "gpt", EVEN, (4, 4), 7)
    assert [told for told, _ in untouched] == [""] * 4


def test_given_weights_reach_all_replicas(pool: Pool) -> None:
    assert pool.run("smol", 4, given_weights, "gpt", UNEVEN, (4, 4)) == [True] * 4


def test_a_loss_that_is_no_number_in_one_pipeline_stops_all(pool: Pool) -> None:
    for said in pool.run("smol", 4, poisoned, "gpt", EVEN, (4, 4), 3):
        assert said.startswith("3: the loss of rank 3 is not finite")


def test_a_replica_that_is_stuck_ends_the_step_at_its_deadline(pool: Pool) -> None:
    """The other pipeline, which waits at the ring for one that itself waits, is told the same culprit."""
    for told in pool.run("smol", 4, one_is_stuck, "gpt", EVEN, (4, 4), 3):
        assert "rank 3 sent nothing for 3 s" in told


# -- checkpoints -------------------------------------------------------------------------------------------------------


def given(saved: list[Any]) -> list[Any]:
    return [fields for slices, *_ in saved for fields in slices]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt", "untied llama"])
def test_what_pipelines_save_goes_on_as_one_of_another_cut_and_back(pool: Pool, kind: str) -> None:
    saved = pool.run("smol", 4, slices_after, kind, UNEVEN, (4, 4), 5)
    slices = given(saved)
    names = [(name, box) for name, _, box, _ in slices]
    assert len(names) == len(set(names))  # nothing twice, the tied embedding neither
    # Each replica writes its share of the stage, about as much as the other.
    moments = [sum(t.numel() for name, _, _, t in part if "exp_avg" in name) for part, *_ in saved]
    assert moments[2:] == pytest.approx(moments[:2], rel=0.05)
    expected = saved[0][1]
    three = pool.run("smol", 3, resume_others, "mp", 0, kind, THREE, slices, SAMPLES, 5)
    sharded = pool.run("smol", 2, resume_others, "fsdp", 3, kind, (0, 0), slices, SAMPLES, 5)
    others = pool.run("smol", 4, resume, kind, EVEN, (2, 6), slices, 5)
    for losses in (*three, *sharded, *(losses for losses, _ in others)):
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)
    # And the other way: one pipeline of three stages wrote, two of two go on.
    alone = pool.run("smol", 3, slices_of_one_pipeline, kind, THREE, SAMPLES, 5)
    for losses, _ in pool.run("smol", 4, resume, kind, UNEVEN, (4, 4), given(alone), 5):
        torch.testing.assert_close(losses, alone[0][1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("wire", ["fp32", "int8"])
def test_the_same_pipelines_go_on_to_the_bit(pool: Pool, wire: str) -> None:
    saved = pool.run("smol", 4, slices_after, "gpt", UNEVEN, (4, 4), 5, wire)
    again = pool.run("smol", 4, resume, "gpt", UNEVEN, (4, 4), given(saved), 5, wire)
    for (_, losses, params), (after, last) in zip(saved, again, strict=True):
        assert after == losses
        assert torch.equal(last, params)


# -- six ranks ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.timeout(300)
def test_two_pipelines_of_three_stages_and_three_of_two() -> None:
    six = Pool(6)
    try:
        for bounds, shares in ((THREE, (4, 4)), (UNEVEN, (3, 2, 3))):
            grid = Grid(len(bounds), len(shares))
            ranks = six.run("smol", 6, train, "gpt", bounds, shares, 4, STEPS, BUCKET)
            assert_equals_single(ranks, grid, oracle("gpt"))
            assert_replicas_equal(ranks, grid)
            ends = [rank["tied"] for rank in ranks if rank["tied"] is not None]
            assert len(ends) == 2 * grid.replicas
            assert all(torch.equal(end, ends[0]) for end in ends)
    finally:
        six.close()
