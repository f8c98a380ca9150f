"""The order of the tests when several processes run them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each process of pytest-xdist begin with its part of the slow tests: a long one at the end runs alone."""
    items[:] = slow_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def slow_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Items in an order of which `--dist worksteal`, which cuts it into as many even blocks as there are processes,
    gives each process as many slow ones as any other, at the front. What is quick stays in its order: neighbours share
    fixtures, and pools of processes among them.
    """
    if workers == 1:
        return list(items)
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        left = len(items) - len(ordered)
        dealt = slow[worker::workers]
        rest = max(0, left // (workers - worker) - len(dealt))
        ordered += dealt + quick[:rest]
        quick = quick[rest:]
    return ordered + quick
