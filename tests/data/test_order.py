import numpy as np
import pytest

from smolcluster.data import step_indices, steps_per_epoch


def epoch_of(samples, batch, seed, epoch):
    steps = steps_per_epoch(samples, batch)
    return np.concatenate([step_indices(samples, batch, seed, epoch * steps + step) for step in range(steps)])


@pytest.mark.parametrize(("samples", "batch"), [(100, 8), (96, 8), (7, 7), (1, 1), (1000, 1)])
def test_no_sample_comes_twice_in_an_epoch(samples, batch):
    for epoch in range(3):
        seen = epoch_of(samples, batch, seed=1, epoch=epoch)
        assert len(set(seen.tolist())) == len(seen) == samples // batch * batch
        assert seen.min() >= 0
        assert seen.max() < samples
        assert seen.dtype == np.int64


def test_what_one_epoch_drops_another_takes():
    seen = set()
    for epoch in range(20):
        seen |= set(epoch_of(103, 10, seed=3, epoch=epoch).tolist())
    assert seen == set(range(103))


def test_the_batch_only_cuts_an_order_that_is_the_same_for_all():
    """So a world of 2 x 12 and one of 3 x 8 train on the same samples, and 24 at once is 8 three times."""
    whole = epoch_of(480, 24, seed=5, epoch=2)
    assert np.array_equal(whole, epoch_of(480, 8, seed=5, epoch=2))


def test_epochs_and_seeds_differ():
    orders = [epoch_of(200, 10, seed, epoch).tolist() for seed in (0, 1, 2, -1) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == len(orders)
    same_place = np.mean(np.array(orders[0]) == np.array(orders[1]))
    assert same_place < 0.05


def test_the_order_looks_random():
    order = epoch_of(10_000, 1, seed=9, epoch=0)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


def test_the_order_is_pinned():
    """Machines of one run may have different libraries: this must never change."""
    assert step_indices(1000, 8, 42, 0).tolist() == [656, 881, 106, 864, 860, 517, 645, 591]
    assert step_indices(1000, 8, 42, 125).tolist() == [826, 500, 5, 468, 236, 959, 60, 631]


def test_callers_cannot_disturb_each_other():
    first = step_indices(50, 5, 1, 0)
    expected = first.copy()
    first[:] = 0
    assert np.array_equal(step_indices(50, 5, 1, 0), expected)


@pytest.mark.parametrize(("samples", "batch", "step"), [(7, 8, 0), (0, 1, 0), (8, 0, 0), (8, 8, -1)])
def test_impossible_requests_are_errors(samples, batch, step):
    with pytest.raises(ValueError):
        step_indices(samples, batch, 1, step)
