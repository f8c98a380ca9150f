"""Random collectives of all kinds, dtypes, sizes and groups against a reference; eight ranks on a busy machine.

`make test` plays some hundreds, `make soak` ten thousand at each number of ranks. A failure names its seed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.comm import random_ops
from tests.comm.burn import burning
from tests.comm.pool import Pool

SOAK_OPERATIONS = 10_000
# A call of the pool has two minutes.
SOAK_BATCH = 500


@pytest.mark.parametrize("n", [2, 3, 4])
def test_random_collectives_equal_the_reference(pool: Pool, n: int) -> None:
    taken = Counter()
    for counts in pool.run(n, random_ops.run, 20 + n, 250):
        taken.update(counts)
    assert set(taken) == set(random_ops.REDUCING + random_ops.MOVING)


def wrong_at(fabric: Any, seed: int) -> str:
    """One rank's answer is off by a little: the comparison must see it."""
    if fabric.config.rank == 1:
        right = random_ops.numbers
        random_ops.numbers = lambda seed, step, rank, size: right(seed, step, rank, size) + (rank == 1)
    try:
        random_ops.run(fabric, seed, 50)
    except AssertionError as error:
        return str(error)
    finally:
        if fabric.config.rank == 1:
            random_ops.numbers = right
    return ""


def test_a_wrong_answer_is_seen_and_names_its_seed(pool: Pool) -> None:
    texts = [str(outcome.value) for outcome in pool.outcomes(2, wrong_at, 7, timeout_s=3.0)]
    assert any("seed 7, rank" in text for text in texts), texts


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_ten_thousand_random_collectives(pool: Pool, n: int) -> None:
    started = time.monotonic()
    taken: Counter[str] = Counter()
    for batch in range(SOAK_OPERATIONS // SOAK_BATCH):
        for counts in pool.run(n, random_ops.run, 1000 * n + batch, SOAK_BATCH):
            taken.update(counts)
    print(f"\n{n} ranks: {SOAK_OPERATIONS} operations in {time.monotonic() - started:.0f} s, by rank and kind:")
    print("  " + ", ".join(f"{kind} {count}" for kind, count in sorted(taken.items())))


@pytest.fixture
def eight() -> Iterator[Pool]:
    """Eight workers of its own: nobody else needs so many, and eight imports of torch would take longest."""
    made = Pool("forkserver" if sys.platform.startswith("linux") else "spawn")
    made.start(8)
    yield made
    made.close()


def heard(fabric: Any, done: threading.Event) -> list[float]:
    """The longest silence of each spoke that rank 0 has seen; ends with `done`."""
    longest = [0.0] * fabric.config.world_size
    while not done.wait(0.02):
        for link in fabric._mesh.links():
            if link.channel == "control":
                longest[link.peer] = max(longest[link.peer], time.monotonic() - link.last_heard)
    return longest


def crowded(fabric: Any, seed: int, count: int) -> float:
    """Random collectives, then large ones; the longest silence that rank 0 has seen."""
    rank, n = fabric.config.rank, fabric.config.world_size
    done, seen = threading.Event(), []
    watcher = threading.Thread(target=lambda: seen.extend(heard(fabric, done)))
    watcher.start()
    try:
        random_ops.run(fabric, seed, count)
        whole = torch.arange(n * 100_000, dtype=torch.float64) + rank
        part, back = torch.empty(100_000, dtype=torch.float64), torch.empty_like(whole)
        for _ in range(5):
            dist.reduce_scatter_single(part, whole)
            dist.all_gather_single(back, part)
            summed = whole.clone()
            dist.all_reduce(summed)
            assert torch.equal(back, summed)
            assert torch.equal(summed, n * torch.arange(n * 100_000, dtype=torch.float64) + n * (n - 1) / 2)
    finally:
        done.set()
        watcher.join()
    return max(seen)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_eight_ranks_on_a_busy_machine_do_not_take_each_other_for_dead(eight: Pool) -> None:
    """Silence of 5 s is death here, heartbeats come every second, and there are several processes for each core."""
    with burning(2 * (os.cpu_count() or 2)):
        silences = eight.run(8, crowded, 8, 120, timeout_s=5.0, operation_s=100.0)
    assert 0 < max(silences[0:1]) < 5
