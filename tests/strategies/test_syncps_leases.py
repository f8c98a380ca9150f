"""Ranges of samples that are leased, given back and leased again."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.data.order import step_indices
from smolcluster.strategies.syncps.leases import Leases, sample_numbers


def test_what_is_given_back_is_leased_first() -> None:
    leases = Leases()
    assert leases.lease(0, 4) == ((0, 4),)
    assert leases.lease(1, 4) == ((4, 8),)
    leases.give_back(0)
    assert leases.lease(2, 3) == ((0, 3),)
    assert leases.lease(3, 3) == ((3, 4), (8, 10))
    leases.done(1)
    assert leases.owed() == [(0, 3), (3, 4), (8, 10)]
    assert leases.position == 10


def test_a_checkpoint_owes_what_is_leased() -> None:
    leases = Leases()
    leases.lease(0, 4)
    leases.lease(1, 4)
    leases.done(0)
    again = Leases(leases.position, leases.owed())
    assert again.lease(0, 6) == ((4, 8), (8, 10))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["done", "back", "keep", "restart"])), max_size=60))
def test_every_position_is_in_one_place(moves: list[tuple[int, str]]) -> None:
    leases, done, kept = Leases(), [], {}
    for number, (count, fate) in enumerate(moves):
        ranges = leases.lease(number, count)
        assert sum(stop - start for start, stop in ranges) == count
        kept[number] = [p for start, stop in ranges for p in range(start, stop)]
        if fate == "done":
            done += kept.pop(number)
            leases.done(number)
        if fate == "back":
            kept.pop(number)
            leases.give_back(number)
        if fate == "restart":
            kept.clear()
            leases = Leases(leases.position, leases.owed())
        owed = [p for start, stop in leases.owed() for p in range(start, stop)]
        assert sorted(done + owed) == list(range(leases.position))
        assert {p for each in kept.values() for p in each} <= set(owed)


def test_positions_are_the_samples_of_the_batches_in_a_row() -> None:
    line = np.concatenate([step_indices(10, 3, 7, step) for step in range(8)])  # two epochs of three batches, and more
    assert sample_numbers([(0, 3)], 10, 3, 7).tolist() == step_indices(10, 3, 7, 0).tolist()
    assert sample_numbers([(5, 17)], 10, 3, 7).tolist() == line[5:17].tolist()
    assert sample_numbers([(1, 2), (22, 24)], 10, 3, 7).tolist() == [*line[1:2], *line[22:24]]
