"""The race of unequal machines (benchmarks.unequal): its samples, its clock, and how it is judged."""

from __future__ import annotations

import torch

from benchmarks.emulated import Race, Track
from benchmarks.racers import REFERENCE
from benchmarks.unequal import judge, rows

RACE = Race(pace_s=(0.0, 0.0, 0.0), batch=6, steps=4, look=2)


def track(*losses: tuple[float, float, float]) -> Track:
    made = Track()
    for look in losses:
        made.look(*look)
    return made


def test_a_lease_that_lies_across_batches_has_the_samples_of_the_line():
    whole = [RACE.batch_at(step, 0, 6) for step in range(3)]
    for part in (0, 1):
        line = torch.cat([batch[part] for batch in whole])
        assert torch.equal(RACE.samples(4, 10)[part], line[4:14])
        assert torch.equal(RACE.samples(6, 6)[part], line[6:12])
    x, y = RACE.samples(0, 1)
    assert torch.equal(x[:, 1:], y[:, :-1])


def test_it_is_time_for_a_look_once_every_so_many_steps_however_many_come_at_once():
    assert [RACE.looks(before, steps) for before, steps in ((0, 1), (1, 2), (2, 3), (3, 9), (1, 3))] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_a_step_is_timed_from_the_first_look_to_the_last_and_may_end_between_two():
    assert track((9.0, 2, 1.0), (10.0, 4.5, 1.0), (14.0, 12, 1.0)).step_s == 0.5


def test_the_ceiling_is_what_nobody_who_waits_can_reach():
    race = Race(pace_s=(0.008, 0.008, 0.016), batch=24, steps=90, look=5)
    assert abs(race.ceiling - 5 / 3) < 1e-12
    assert race.most_steps == 150


def test_when_a_loss_was_reached_lies_between_two_looks():
    made = track((1.0, 2, 4.0), (3.0, 4, 2.0), (5.0, 6, 2.5))
    assert [made.seconds_to(loss) for loss in (4.5, 4.0, 3.0, 2.0, 1.9)] == [1.0, 1.0, 2.0, 3.0, None]


def test_each_is_judged_at_its_own_best_rate_by_the_loss_that_the_reference_ends_with_at_its_best():
    found = rows(
        RACE,
        {
            REFERENCE: {0.1: track((2.0, 2, 3.0), (4.0, 4, 2.0)), 0.2: track((2.0, 2, 3.0), (6.0, 4, 2.5))},
            "quick": {
                0.1: track((1.0, 2, 2.5), (2.0, 4, 1.5), (3.0, 6, 0.5)),
                0.2: track((1.0, 2, 2.0), (2.0, 4, 1.0)),
            },
            "astray": {0.1: track((1.0, 2, 9.0), (2.0, 4, 8.0)), 0.2: track((1.0, 2, 9.0), (2.0, 4, 7.0))},
        },
    )
    assert [(row.best_rate, row.loss, row.seconds) for row in found.values()] == [
        (0.1, 2.0, 4.0),
        (0.2, 1.0, 1.0),
        (0.2, 7.0, None),
    ]
    # The rates' own ratios are 1.0 / 0.5 and 2.0 / 0.5.
    assert [row.speed for row in found.values()] == [1.0, 3.0, 3.0]
    targets = judge(found)
    assert [(target.value, target.passed) for target in targets] == [(3.0, True), (3.0, True), (4.0, True)]
    assert not judge({**found, "quick": found["astray"]})[-1].passed
