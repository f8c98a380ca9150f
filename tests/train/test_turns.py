"""Ranks that compute in turn: threads with queues between them instead of processes with links."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from smolcluster.errors import InterruptedRun
from smolcluster.train import turns
from smolcluster.train.turns import Turns

COUNT, WAIT_S = 3, 20


class Links:
    """torch.distributed as far as it is needed; each thread is a rank."""

    def __init__(self) -> None:
        self._ways: dict[tuple[int, int], queue.Queue[Tensor]] = {
            (src, dst): queue.Queue() for src in range(COUNT) for dst in range(COUNT)
        }
        self._all = threading.Barrier(COUNT)
        self._gathered: dict[int, Tensor] = {}
        self._me = threading.local()

    def be(self, rank: int) -> None:
        self._me.rank = rank

    def send(self, tensor: Tensor, dst: int, tag: int) -> None:
        self._ways[self._me.rank, dst].put(tensor.clone())

    def recv(self, tensor: Tensor, src: int, tag: int) -> None:
        tensor.copy_(self._ways[src, self._me.rank].get(timeout=WAIT_S))

    def all_gather(self, tensors: list[Tensor], tensor: Tensor) -> None:
        self._gathered[self._me.rank] = tensor
        self._all.wait(WAIT_S)
        for rank, into in enumerate(tensors):
            into.copy_(self._gathered[rank])

    def nothing_left(self) -> bool:
        return all(way.empty() for way in self._ways.values())


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Links:
    found = Links()
    monkeypatch.setattr(turns, "dist", found)
    return found


def each(links: Links, act: Callable[[int], Any]) -> list[Any]:
    """What each rank's part gives, or raises."""

    def be(rank: int) -> Any:
        links.be(rank)
        try:
            return act(rank)
        except InterruptedRun as stopped:
            return stopped

    with ThreadPoolExecutor(COUNT) as ranks:
        return list(ranks.map(be, range(COUNT)))


def test_one_works_at_a_time_and_in_order(links: Links) -> None:
    worked: list[int] = []
    took = each(links, lambda rank: Turns(rank, COUNT, lambda: False).mean_s(lambda: worked.append(rank), 0.0))
    assert all(seconds > 0 for seconds in took)
    assert worked == list(range(COUNT)) * turns._ROUNDS
    assert links.nothing_left()


def test_the_first_round_only_makes_room(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(turns.time, "perf_counter", lambda: float(next(clock)))
    first = [True] * COUNT

    def act(rank: int) -> float:
        def work() -> None:
            # The first time takes a hundred readings of the clock more.
            for _ in range(100 if first[rank] else 0):
                next(clock)
            first[rank] = False

        return Turns(rank, COUNT, lambda: False).mean_s(work, 0.0)

    assert each(links, act) == [1.0] * COUNT


def test_who_is_quicker_has_more_of_it(links: Links) -> None:
    seconds = (1.0, 1.0, 2.0)
    assert each(links, lambda rank: Turns(rank, COUNT, lambda: False).part(seconds[rank])) == pytest.approx(
        [0.4, 0.4, 0.2]
    )


def test_when_the_first_is_to_stop_all_do(links: Links) -> None:
    rounds = torch.zeros(COUNT)

    def act(rank: int) -> float:
        def work() -> None:
            rounds[rank] += 1

        return Turns(rank, COUNT, lambda: bool(rounds[0] >= 2)).mean_s(work, 0.0)

    ends = each(links, act)
    assert [str(end) for end in ends] == ["stopped as asked"] * COUNT
    assert rounds.tolist() == [2.0] * COUNT
    assert links.nothing_left()
