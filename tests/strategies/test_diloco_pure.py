"""diloco's pure parts: how long a slot is, what a table says, who goes on with what."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolcluster.strategies.base import NotFiniteError
from smolcluster.strategies.diloco.slots import Row, conclude, goes_on, slot_of
from smolcluster.strategies.diloco.survivors import NOTHING, Standing, regroup

SECONDS = st.floats(1e-4, 1e3)
COUNTS = st.integers(0, 2**40)


def row(**said: float) -> Row:
    usual = {
        "number": 3, "generation": 0, "steps": 4, "samples": 8, "tokens": 800, "step_s": 0.5, "taken": 12,
        "loss_sum": 1600.0, "norm_sum": 400.0, "stop": False,
    }  # fmt: skip
    return Row(**(usual | said))  # type: ignore[arg-type]


ROWS = st.lists(
    st.builds(
        row,
        steps=st.integers(1, 50),
        samples=st.integers(1, 1000),
        tokens=st.integers(1, 10**6),
        step_s=SECONDS,
        stop=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(times=st.lists(SECONDS, min_size=1, max_size=9), most=st.integers(1, 500))
def test_in_a_slot_the_fastest_takes_all_and_the_slowest_one(times: list[float], most: int) -> None:
    slot = slot_of(times, most)
    assert slot >= max(times)
    assert slot >= most * min(times)
    assert slot in (max(times), most * min(times))
    for time_s in times:
        steps = 0
        while goes_on(steps, steps * time_s, slot, most):
            steps += 1
        # As many as fit when the last may stick out by half; rounding may decide a tie either way.
        expected = min(most, max(1, math.floor(slot / time_s + 0.5)))
        assert abs(steps - expected) <= (abs(slot / time_s + 0.5 - round(slot / time_s + 0.5)) < 1e-6)
        if time_s == min(times):
            assert steps == most or slot == max(times)


@given(rows=ROWS, most=st.integers(1, 100))
def test_a_table_says_the_same_to_all(rows: list[Row], most: int) -> None:
    said = conclude([Row.of(one.values()) for one in rows], most)
    assert said == conclude(rows, most)
    assert said.members == tuple(range(len(rows)))
    assert math.fsum(said.weights) == pytest.approx(1)
    tokens = sum(one.tokens for one in rows)
    assert said.weights == tuple(one.tokens / tokens for one in rows)
    assert (said.tokens, said.samples) == (tokens, sum(one.samples for one in rows))
    assert said.stop == any(one.stop for one in rows)
    assert said.slot_s == slot_of([one.step_s for one in rows], most)
    assert said.loss == pytest.approx(sum(one.loss_sum for one in rows) / tokens)


@given(
    number=COUNTS, generation=COUNTS, steps=COUNTS, samples=COUNTS, tokens=COUNTS, taken=COUNTS, step_s=SECONDS,
    stop=st.booleans(),
)  # fmt: skip
def test_a_row_survives_its_way(**said: float) -> None:
    assert Row.of(row(**said).values()) == row(**said)


def test_rows_of_an_older_round_count_for_nothing() -> None:
    rows = [row(number=2, tokens=10_000, step_s=0.001), row(), row(tokens=2400)]
    said = conclude(rows, 5)
    assert (said.members, said.weights) == ((1, 2), (0.0, 0.25, 0.75))
    assert (said.tokens, said.samples, said.slot_s) == (3200, 16, 2.5)


@pytest.mark.parametrize(("field", "words"), [("loss_sum", "the loss of rank 1"), ("norm_sum", "the gradient of rank")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_names_its_rank(field: str, words: str, value: float) -> None:
    rows = [row(), row(**{field: value}), row()]
    with pytest.raises(NotFiniteError, match=words) as told:
        conclude([Row.of(one.values()) for one in rows], 5)
    assert told.value.rank == 1


def test_a_round_without_a_sample_is_a_bug() -> None:
    with pytest.raises(ValueError, match="no rank had a sample"):
        conclude([row(tokens=0), row(tokens=0)], 5)


A, B = Standing(7, 2, NOTHING, 40), Standing(6, 2, 2, 55)


def test_nobody_carries_anything() -> None:
    assert regroup([Standing(), Standing()]) is None


def test_whoever_has_the_sum_commits_it_if_anybody_has() -> None:
    said = regroup([Standing(), B, A])
    assert said is not None
    assert (said.leader, said.committing, said.joiners, said.taken) == (2, (1,), (0,), 55)


def test_if_nobody_has_committed_all_do_it_again() -> None:
    said = regroup([B, replace(B, ready=NOTHING), Standing()])
    assert said is not None
    assert (said.leader, said.committing, said.joiners) == (0, (), (2,))


@pytest.mark.parametrize(
    "stale",
    [
        Standing(5, 2, NOTHING, 0),  # frozen for longer than a round
        Standing(6, 2, NOTHING, 0),  # it never had the sum of the round that the others committed
        Standing(6, 1, 1, 0),  # it has a sum of that round, of an older group, and the others made another one
        Standing(7, 1, NOTHING, 0),  # it alone committed it in the older group
    ],
)
def test_who_has_neither_the_last_commit_nor_its_sum_is_a_joiner(stale: Standing) -> None:
    for rank, standings in enumerate([[stale, A, A], [A, stale, A], [A, A, stale]]):
        said = regroup(standings)
        assert said is not None
        assert (said.committing, said.joiners) == ((), (rank,))
        assert said.leader == (rank == 0)


@given(st.lists(st.builds(Standing, st.integers(-1, 4), st.integers(-1, 3), st.integers(-1, 3), COUNTS), min_size=1))
def test_everybody_has_one_part(standings: list[Standing]) -> None:
    said = regroup(standings)
    if said is None:
        assert all(one.rounds == NOTHING for one in standings)
        return
    full = [r for r in range(len(standings)) if r not in (*said.committing, *said.joiners)]
    assert said.leader == full[0]
    assert len({(standings[r].rounds, standings[r].generation) for r in full}) == 1
    assert sorted((*full, *said.committing, *said.joiners)) == list(range(len(standings)))
