"""Batches made ahead: the same, in the same order, from any step on, and never left behind."""

from __future__ import annotations

import threading

import pytest
import torch

from smolcluster.train import prefetch
from smolcluster.train.prefetch import Prefetch


def batch(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.tensor([step]), torch.tensor([-step]))]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("first", [1, 57])
def test_every_step_gets_its_own_batch(first: int) -> None:
    ahead = Prefetch(batch, last=80)
    assert not threads(), "nothing is made before somebody asks"
    for step in range(first, 81):
        [(x, y)] = ahead.take(step)
        assert (x.item(), y.item()) == (step, -step)
    ahead.close()
    assert not threads()


def test_it_is_ahead_but_not_far() -> None:
    made: list[int] = []
    full = threading.Event()

    def make(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        made.append(step)
        if step == 4:
            full.set()
        return batch(step)

    ahead = Prefetch(make, last=100, ready=4)
    ahead.take(1)
    assert full.wait(10), "steps 2 to 4 are made while nobody asks"
    ahead.close()
    assert made in ([1, 2, 3, 4], [1, 2, 3, 4, 5]), "the fifth, if the first was taken before the fourth was made"


def test_nothing_is_made_after_the_last_step() -> None:
    made: list[int] = []
    ahead = Prefetch(lambda step: made.append(step) or batch(step), last=3)
    for step in (1, 2, 3):
        ahead.take(step)
    ahead.close()
    assert made == [1, 2, 3]


def test_the_course_may_be_changed() -> None:
    ahead = Prefetch(batch, last=100)
    order = [1, 2, 50, 51, 51, 3, 4, 99, 100, 1]
    assert [ahead.take(step)[0][0].item() for step in order] == order
    ahead.close()


def test_an_error_comes_out_where_its_step_is_taken() -> None:
    def make(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if step == 3:
            raise OSError("the disk is gone")
        return batch(step)

    ahead = Prefetch(make, last=9)
    assert ahead.take(1)[0][0].item() == 1
    assert ahead.take(2)[0][0].item() == 2
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.take(3)
    ahead.close()
    assert not threads()


def test_after_close_there_is_nothing() -> None:
    ahead = Prefetch(batch, last=9)
    ahead.close()
    with pytest.raises(ValueError, match="after close"):
        ahead.take(1)


def test_a_disk_that_hangs_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE_S", 0.2)
    monkeypatch.setattr(prefetch, "LEAVE_S", 0.2)
    go = threading.Event()

    def hangs(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        go.wait(30)
        return batch(step)

    ahead = Prefetch(hangs, 3)
    with pytest.raises(TimeoutError, match="step 1"):
        ahead.take(1)
    ahead.close()
    go.set()
