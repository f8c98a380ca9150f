"""The learning rate of a step: linear warm-up, then half a cosine."""

from __future__ import annotations

import math

from smolcluster.spec.run import ScheduleSpec


def learning_rate(step: float, total_steps: int, peak: float, schedule: ScheduleSpec) -> float:
    """The rate of step 1..total_steps: `peak` is reached at step `warmup_iters`, `min_lr` at the last one.

    A step may lie between two, where a server applies part of a global batch. A run shorter than its warm-up only warms
    up. A `min_lr` above the peak is taken as the peak.
    """
    if schedule.warmup_iters and step <= schedule.warmup_iters:
        return peak * step / schedule.warmup_iters
    floor = min(schedule.min_lr, peak)
    done = (step - schedule.warmup_iters) / max(1, total_steps - schedule.warmup_iters)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * min(1.0, done)))
