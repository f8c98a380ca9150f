"""Which samples make up a step. A function of (seed, step) alone: not of ranks, strategy or machine.

The order is made of 64-bit integer arithmetic of our own (splitmix64) rather than of a library's generator: two ranks
with different versions of that library would silently train on overlapping samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_MASK = (1 << 64) - 1


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele et al. 2014) on uint64, elementwise: a bijection, so keys never collide."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# Two epochs: the one a step is in and, for who looks ahead, the next. A pure function's memory, not state.
@lru_cache(maxsize=2)
def _epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(samples), read-only."""
    first = _mix(np.array([seed & _MASK], dtype=np.uint64))
    start = _mix(first + np.uint64(epoch))
    keys = _mix(start + np.arange(1, samples + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    order = np.argsort(keys, kind="stable")
    order.flags.writeable = False
    return order


def steps_per_epoch(samples: int, global_batch: int) -> int:
    """Whole global batches in one pass; what is left over sits out that epoch. ValueError if there is none."""
    if not 0 < global_batch <= samples:
        raise ValueError(f"{samples} samples do not fill a global batch of {global_batch}")
    return samples // global_batch


def step_indices(samples: int, global_batch: int, seed: int, step: int) -> np.ndarray:
    """The sample numbers (int64, shape (global_batch,)) of a step, counted from 0 over all epochs.

    No sample comes twice in an epoch; each epoch has its own order. ValueError if samples < global_batch or step < 0.
    """
    if step < 0:
        raise ValueError(f"steps count from 0, not {step}")
    epoch, position = divmod(step, steps_per_epoch(samples, global_batch))
    start = position * global_batch
    return _epoch_order(samples, seed, epoch)[start : start + global_batch].astype(np.int64)
