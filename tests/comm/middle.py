"""A rank that goes in the middle of an operation, and what the others make of it; for test_middle.py.

The middle is measured, not guessed: the victim knows from a first, undisturbed round how many bytes the operation
moves over its sockets, and goes when a third of them has moved in the second. Where next to nothing moves (a barrier,
a key, a new group) it goes before it does its part, and the others are in the middle of waiting for it.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from smolcluster.errors import PeerError

# 24 MB for each pair of ranks, more than the kernel's buffers take.
NUMBERS = 6_000_000
COLLECTIVES = (
    "all_reduce",
    "widened",
    "reduce",
    "reduce_scatter",
    "all_gather",
    "broadcast",
    "gather",
    "scatter",
    "all_to_all",
    "async",
)
MESSAGES = ("send", "recv")
WAITING = ("barrier", "store_get", "store_wait", "new_group")


class Seen(NamedTuple):
    """How an operation ended at a survivor: the error, and what was left afterwards."""

    kind: str
    text: str
    culprit: int
    threads: list[str]
    descriptors: int
    tensors: int


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def before_joining(config: Any) -> Any:
    """For the pool: remember what this process had open before it joined."""
    global _OPEN_BEFORE
    _OPEN_BEFORE = descriptors()
    return config


def operation(fabric: Any, name: str, victim: int) -> Callable[[], Any]:
    """One call of the operation, as this rank takes part in it. `victim` is where the data comes from or goes to."""
    rank, n = fabric.config.rank, fabric.config.world_size
    other = (victim + 1) % n
    whole, part = torch.ones(NUMBERS // n * n), torch.ones(NUMBERS // n)
    pieces = list(whole.chunk(n))
    half = whole.half()

    def message(source: int, to: int) -> None:
        if rank == source:
            dist.send(whole, to)
        elif rank == to:
            dist.recv(whole, source)

    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: dist.all_reduce(whole),
        # A mean: sums of so few ranks take the ring.
        "widened": lambda: dist.all_reduce(half, dist.ReduceOp.AVG),
        "async": lambda: [dist.all_reduce(t, async_op=True) for t in (whole, part)][-1].wait(),
        "reduce": lambda: dist.reduce(whole, victim),
        "reduce_scatter": lambda: dist.reduce_scatter_single(part, whole),
        "all_gather": lambda: dist.all_gather_single(whole, part),
        "broadcast": lambda: dist.broadcast(whole, victim),
        "gather": lambda: dist.gather(part, pieces if rank == other else None, other),
        "scatter": lambda: dist.scatter(part, pieces if rank == victim else None, victim),
        "all_to_all": lambda: dist.all_to_all_single(whole, torch.ones_like(whole)),
        "send": lambda: message(other, victim),
        "recv": lambda: message(victim, other),
        "barrier": dist.barrier,
        "store_get": lambda: fabric.store.get("the victim's key"),
        "store_wait": lambda: fabric.store.wait(["the victim's key"]),
        "new_group": lambda: dist.all_reduce(part, group=dist.new_group(list(range(n)))),
    }
    return calls[name]


def go_when(fabric: Any, moved: int, how: signal.Signals) -> None:
    """Leave this world once so many bytes have moved over our sockets."""

    def watch() -> None:
        pause = threading.Event()
        while True:
            counted = fabric.counters()
            if counted.bytes_out + counted.bytes_in >= moved:
                os.kill(os.getpid(), how)
                return
            pause.wait(0.0002)

    threading.Thread(target=watch, daemon=True).start()


def until_it_goes(fabric: Any, name: str, victim: int, how: signal.Signals) -> tuple[str, str]:
    """Do the operation until it fails, and give a survivor's error; the victim goes in the second round."""
    rank = fabric.config.rank
    call = operation(fabric, name, victim)
    dist.barrier()
    if name not in WAITING:
        before = fabric.counters()
        call()
        after = fabric.counters()
        moved = after.bytes_out - before.bytes_out + after.bytes_in - before.bytes_in
        if rank == victim:
            dist.barrier()
            assert moved > NUMBERS // 2, f"the victim takes no part in {name}: {moved} bytes"
            counted = fabric.counters()
            go_when(fabric, counted.bytes_out + counted.bytes_in + moved // 3, how)
    elif rank == victim:
        os.kill(os.getpid(), how)
    try:
        if name not in WAITING and rank != victim:
            dist.barrier()  # a slow survivor may still be here when the victim goes
        while True:
            call()
            if name in MESSAGES:  # a third rank takes no part in them
                dist.barrier()
    except PeerError as error:
        return type(error).__name__, str(error)


def survive(fabric: Any, name: str, victim: int, how: signal.Signals) -> Seen:
    kind, text = until_it_goes(fabric, name, victim, how)
    fabric.close()
    gc.collect()
    found = re.search(r"rank (\d+)", text)
    return Seen(
        kind,
        text,
        int(found.group(1)) if found else -1,
        [thread.name for thread in threading.enumerate() if thread.name.startswith("smol")],
        descriptors() - _OPEN_BEFORE,
        sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.numel() > 1000),
    )
