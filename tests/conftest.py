"""The order of the tests when several processes run them, and that each module is compiled once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# A container's image or a shell may ask that no compiled module is kept: then each of the thousands of processes that
# tests start compiles all of ours anew, and each of pytest's own every test.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each process of pytest-xdist begin with its part of the slow tests: a long one at the end runs alone."""
    items[:] = slow_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def slow_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Items in an order of which `--dist worksteal`, which cuts it into as many even blocks as there are processes,
    gives each process about as many slow ones as any other, at the front. Those of a file stay together: they share
    what takes long to set up, a lab above all. What is quick stays in its order: neighbours share fixtures, and pools
    of processes among them.
    """
    if workers == 1:
        return list(items)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            files.setdefault(item.path, []).append(item)
    dealt: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for slow in sorted(files.values(), key=len, reverse=True):
        min(dealt, key=len).extend(slow)
    quick = [item for item in items if not item.get_closest_marker("slow")]
    ordered: list[pytest.Item] = []
    for worker, slow in enumerate(dealt):
        left = len(items) - len(ordered)
        rest = max(0, left // (workers - worker) - len(slow))
        ordered += slow + quick[:rest]
        quick = quick[rest:]
    return ordered + quick
