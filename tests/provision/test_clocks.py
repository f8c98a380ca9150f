"""How far clocks are apart: what a question bounds, and what several do together."""

from __future__ import annotations

import pytest

from smolcluster.provision import clocks as clock


@pytest.mark.parametrize("ahead", [-3600.0, -0.2, 0.0, 0.5, 86400.0])
def test_the_truth_lies_within_the_bounds_however_a_delay_is_shared(ahead: float) -> None:
    found = []
    for there, back in ((0.4, 0.01), (0.01, 0.4), (0.1, 0.1)):
        asked = 1000.0
        found.append(clock.bounds(asked, asked + there + ahead, asked + there + back))
        low, high = found[-1]
        assert low <= ahead <= high
    offset, within = clock.overlap(found)
    # Two lopsided questions know more together than an even one.
    assert abs(offset - ahead) <= within + 1e-9
    assert within == pytest.approx(0.01)


def test_a_clock_that_was_set_meanwhile_counts_as_it_is_now() -> None:
    assert clock.overlap([(9.0, 11.0), (-1.0, 1.0)]) == (0.0, 1.0)
