"""What a rank's steps of two sizes tell of what a step costs it."""

from __future__ import annotations

import pytest

from smolcluster.train.pace import Pace

UPDATE, PASS, SAMPLE = 0.02, 0.03, 0.01


def pace(samples: int, micros: int, thin: bool = True) -> Pace:
    whole = UPDATE + micros * PASS + samples * SAMPLE
    steps = Pace([9.0, whole, whole], [UPDATE] * 3, samples=samples, micros=micros)
    steps.thin_s = [UPDATE + PASS + SAMPLE] * 3 if thin else []
    return steps


@pytest.mark.parametrize(("samples", "micros"), [(8, 1), (8, 4), (9, 2)])
def test_two_points_of_a_line(samples: int, micros: int) -> None:
    assert pace(samples, micros).pass_s == pytest.approx(PASS)


def test_one_point_is_none_and_chance_is_kept_within_bounds() -> None:
    assert pace(8, 8, thin=False).pass_s == 0.0
    odd = pace(8, 1)
    odd.thin_s = [UPDATE / 2]
    assert odd.pass_s == 0.0
    odd.thin_s = [5.0]
    assert odd.pass_s <= 5.0 - UPDATE
