"""mp takes the same steps as one process, however the layers and the batch are cut (DESIGN section 6)."""

from __future__ import annotations

import functools
import math
from collections import deque
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mp_clock import BACKWARD_S, FORWARD_S, waited
from mp_jobs import LAYERS, drift, given_weights, one_is_stuck, resume, slices_after, train
from strategy_pool import Pool

from smolcluster.plan.pipeline import idle_share
from smolcluster.strategies.mp.schedule import turns

STEPS, SAMPLES = 20, 8
CUTS = {
    2: {"even": ((0, 2), (2, 4)), "uneven": ((0, 1), (1, 4))},
    3: {"even": ((0, 1), (1, 3), (3, 4)), "uneven": ((0, 2), (2, 3), (3, 4))},
    4: {"even": ((0, 1), (1, 2), (2, 3), (3, 4)), "uneven": ((0, 1), (1, 2), (2, 5), (5, 6))},
}
ALL_CUTS = [
    pytest.param(size, bounds, id=f"{size}-{how}") for size, cuts in CUTS.items() for how, bounds in cuts.items()
]


@functools.cache
def oracle(kind: str, micros: int = 1) -> dict[str, Any]:
    got: dict[str, Any] = train(0, 1, kind, (), SAMPLES, micros, STEPS)
    return got


def assert_equal(ranks: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for got in ranks:
        torch.testing.assert_close(got["losses"], expected["losses"], rtol=0, atol=1e-5)
        torch.testing.assert_close(got["norms"], expected["norms"], rtol=1e-3, atol=1e-5)
        assert got["tokens"] == expected["tokens"]
        for ours, theirs in zip(got["layers"], expected["layers"], strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(
                    dict(sorted(ours.items())), dict(sorted(theirs.items())), rtol=1e-3, atol=1e-5
                )
    evaluated = [got["evaluated"] for got in ranks]
    assert all(other == (0.0, 0, 0) for other in evaluated[:-1])
    assert evaluated[-1][0] == pytest.approx(expected["evaluated"][0], abs=1e-3)
    assert evaluated[-1][1:] == expected["evaluated"][1:]
    assert all(got["state"] is None for got in ranks[1:])
    assert set(ranks[0]["state"]) == set(expected["state"])
    for key, value in expected["state"].items():
        compared = slice(None)
        if key.endswith("attn.c_attn.bias"):
            # A key's bias moves all scores of a query alike: its gradient is rounding, which Adam blows up.
            compared = torch.arange(len(value)) // (len(value) // 3) != 1
        torch.testing.assert_close(ranks[0]["state"][key][compared], value[compared], rtol=0, atol=2e-4)


@pytest.mark.parametrize(("size", "bounds"), ALL_CUTS)
@pytest.mark.parametrize("micros", [1, 4, 8])
def test_equals_single(pool: Pool, size: int, bounds: Any, micros: int) -> None:
    kind = "gpt" if bounds[-1][1] == LAYERS else "deep gpt"
    ranks = pool.run("smol", size, train, kind, bounds, SAMPLES, micros, STEPS)
    assert_equal(ranks, oracle(kind))
    # Both ends of a tied embedding are the same to the bit.
    assert torch.equal(ranks[0]["tied"], ranks[-1]["tied"])
    assert all(rank["tied"] is None for rank in ranks[1:-1])


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("untied gpt", CUTS[3]["uneven"]),
        ("nn", ((0, 1), (1, 2))),
        *((kind, bounds) for kind in ("llama", "untied llama") for size in (2, 3) for bounds in CUTS[size].values()),
    ],
)
def test_every_kind_of_model(pool: Pool, kind: str, bounds: Any) -> None:
    """As one process with the same micro-batches: how a batch is cut alone moves the untied Llama's loss by 2e-5 in
    these steps on some processors, by rounding that Adam blows up."""
    assert_equal(pool.run("smol", len(bounds), train, kind, bounds, SAMPLES, 4, STEPS), oracle(kind, 4))


@pytest.mark.parametrize(("kind", "bounds"), [("gpt", CUTS[3]["uneven"]), ("nn", ((0, 1), (1, 2)))])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_precisions_equal_single_s(pool: Pool, precision: str, kind: str, bounds: Any) -> None:
    """What one process rounds is rounded here, and nothing besides; float16's scale moves alike on every rank."""
    whole = train(0, 1, kind, (), SAMPLES, 4, STEPS, False, precision)
    assert whole["losses"] != oracle(kind)["losses"]
    for got in pool.run("smol", len(bounds), train, kind, bounds, SAMPLES, 4, STEPS, False, precision):
        assert got["losses"][0] == pytest.approx(whole["losses"][0], abs=1e-6)
        # A rounding of float32 moves others of eight bits.
        torch.testing.assert_close(got["losses"], whole["losses"], rtol=0, atol=5e-3)
        torch.testing.assert_close(got["norms"], whole["norms"], rtol=0.05, atol=1e-3)
        assert got["scales"] == whole["scales"]


@pytest.mark.parametrize("kind", ["gpt", "dropout gpt", "llama"])
def test_recomputing_changes_no_bit(pool: Pool, kind: str) -> None:
    """With dropout too, though micro-batches draw between a block's two passes; and nothing is dropped in eval."""
    kept, again = (
        pool.run("smol", 3, train, kind, CUTS[3]["uneven"], SAMPLES, 4, 5, recompute) for recompute in (False, True)
    )
    assert kept[0]["losses"] == again[0]["losses"]
    whole = oracle(kind.removeprefix("dropout "))["losses"][:5]
    assert (kept[0]["losses"] == pytest.approx(whole, abs=1e-5)) == ("dropout" not in kind)
    assert kept[2]["evaluated"] == again[2]["evaluated"]
    for key, value in kept[0]["state"].items():
        assert torch.equal(again[0]["state"][key], value), key


def test_ends_of_a_tied_embedding_that_drifted_are_equal_again(pool: Pool) -> None:
    (_, first), (_, middle), (_, last) = got = pool.run("smol", 3, drift, "gpt", CUTS[3]["even"])
    assert first == last
    assert not middle
    assert [said for said, _ in got] == [True, False, True]
    assert not any(said for said, _ in pool.run("smol", 3, drift, "untied gpt", CUTS[3]["even"]))


def test_over_gloo_too(pool: Pool) -> None:
    assert_equal(pool.run("gloo", 2, train, "gpt", CUTS[2]["even"], SAMPLES, 4, STEPS), oracle("gpt"))


def test_a_stage_holds_its_layers_and_no_more(pool: Pool) -> None:
    """State of four floats a parameter; a tied embedding lies at both ends."""
    bounds = CUTS[4]["even"]
    ranks = pool.run("smol", 4, train, "untied gpt", bounds, SAMPLES, 2, 1)
    whole = train(0, 1, "untied gpt", (), SAMPLES, 1, 1)["held"]
    assert sum(rank["held"] for rank in ranks) == pytest.approx(whole, rel=0.01)
    assert ranks[1]["held"] == ranks[2]["held"] < whole / 4


@pytest.mark.parametrize(
    ("name", "stage", "bounds"),
    [("mp", 0, CUTS[2]["uneven"]), ("mp", 0, CUTS[4]["even"]), ("fsdp", 3, (0, 0)), ("classicdp", 0, (0, 0))],
    ids=["two stages", "four stages", "fsdp 3", "classicdp"],
)
@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_what_it_saves_goes_on_with_another_cut(pool: Pool, name: str, stage: int, bounds: Any, kind: str) -> None:
    saved = pool.run("smol", 3, slices_after, kind, CUTS[3]["even"], SAMPLES, 5)
    slices = [fields for rank_slices, _ in saved for fields in rank_slices]
    names = [(fields[0], fields[2]) for fields in slices]
    assert len(names) == len(set(names))  # nothing twice, the tied embedding neither
    got = pool.run("smol", len(bounds), resume, name, stage, kind, bounds, slices, SAMPLES, 5)
    for losses in got:
        torch.testing.assert_close(losses, saved[0][1], rtol=0, atol=1e-5)


def test_given_weights_reach_the_stages_that_need_them(pool: Pool) -> None:
    assert pool.run("smol", 3, given_weights, "gpt", CUTS[3]["uneven"]) == [True, True, True]


def test_a_stage_that_is_stuck_ends_the_step_at_its_deadline(pool: Pool) -> None:
    """All are told the same, and not after the half hour that other operations have."""
    told = pool.run("smol", 2, one_is_stuck, "gpt", CUTS[2]["even"], 1.0)
    assert "rank 1 sent nothing for 1 s" in told[0]
    assert "rank 1 sent nothing for 1 s" in told[1]


# -- the order of micro-batches ----------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 20))
def test_every_stage_goes_there_and_back_with_every_micro_batch(stages: int, micros: int) -> None:
    for stage in range(stages):
        order = list(turns(stage, stages, micros))
        for way in ("forward", "backward"):
            assert [turn.micro for turn in order if turn.way == way] == list(range(micros))
        alive, most = 0, 0
        for turn in order:
            alive += 1 if turn.way == "forward" else -1
            assert alive >= 0
            most = max(most, alive)
        assert most == min(stages - stage, micros)


def makespan(stages: int, micros: int, forward: float = 1.0, backward: float = 2.0) -> float:
    """How long a step takes when messages take no time: each stage does its turns as soon as it can."""
    orders = [deque(turns(stage, stages, micros)) for stage in range(stages)]
    done: dict[tuple[str, int, int], float] = {}
    clock = [0.0] * stages
    while any(orders):
        before = sum(map(len, orders))
        for stage, order in enumerate(orders):
            while order:
                turn = order[0]
                last = stage == stages - 1
                if turn.way == "forward":
                    needs = ("forward", stage - 1, turn.micro) if stage else None
                else:
                    needs = ("forward", stage, turn.micro) if last else ("backward", stage + 1, turn.micro)
                if needs is not None and needs not in done:
                    break
                begins = max(clock[stage], done[needs] if needs is not None else 0.0)
                clock[stage] = begins + (forward if turn.way == "forward" else backward)
                done[turn.way, stage, turn.micro] = clock[stage]
                order.popleft()
        assert sum(map(len, orders)) < before, "stages wait for each other"
    return max(clock)


@given(st.integers(1, 8), st.integers(1, 16))
def test_even_stages_idle_as_little_as_a_pipeline_must(stages: int, micros: int) -> None:
    took = makespan(stages, micros)
    assert math.isclose(1 - 3.0 * micros / took, idle_share(stages, micros), abs_tol=1e-9)


@pytest.mark.parametrize(("stages", "micros"), [(2, 1), (2, 4), (3, 4), (4, 8), (4, 2)])
def test_even_stages_say_that_they_waited_as_long_as_they_must(pool: Pool, stages: int, micros: int) -> None:
    for comm_s, compute_s in pool.run("smol", stages, waited, micros, (1.0,) * stages):
        assert compute_s == (FORWARD_S + BACKWARD_S) * micros
        assert comm_s / (comm_s + compute_s) == pytest.approx(idle_share(stages, micros), abs=1e-12)


def test_the_slowest_stage_waits_least(pool: Pool) -> None:
    """By hand: it gets its first work after 1, once waits 1 for the last stage's first answer, and the first stage goes
    back through the last micro-batch for 2 after it is done."""
    got = pool.run("smol", 3, waited, 4, (1.0, 2.0, 1.0))
    assert [compute_s for _, compute_s in got] == [12.0, 24.0, 12.0]
    assert {comm_s + compute_s for comm_s, compute_s in got} == {1.0 + 1.0 + 24.0 + 2.0}
