"""How fast a rank computes its share of a step: with the run's own model, batch, precision, and no communication."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import torch

from smolcluster import __version__
from smolcluster.data import Samples
from smolcluster.errors import InterruptedRun
from smolcluster.runtime.context import Alone, RunContext
from smolcluster.strategies.base import Batch, build_strategy
from smolcluster.strategies.synchronous import Synchronous
from smolcluster.train.loop import share_of
from smolcluster.train.rank import model_of

# The first steps make room in memory, and compile where that is asked for.
WARM_UP = 2
# Enough for a median: so many steps in so many seconds, and fewer where one takes very long.
MIN_STEPS, MIN_S = 7, 1.5
SLOW_STEPS, SLOW_S = 3, 60.0


@dataclass
class Pace:
    """The steps of one rank so far, of so many samples in so many micro-batches; `thin_s`: steps of one sample, where
    the others have more in a micro-batch. `enough`: what was taken is a measurement.
    """

    steps_s: list[float] = field(default_factory=list)
    updates_s: list[float] = field(default_factory=list)
    thin_s: list[float] = field(default_factory=list)
    tokens: int = 0
    samples: int = 0
    micros: int = 1

    @property
    def enough(self) -> bool:
        """Whether the median of what was measured means something."""
        count, seconds = len(self.steps_s), sum(self.steps_s)
        return (count >= MIN_STEPS and seconds >= MIN_S) or (count >= SLOW_STEPS and seconds >= SLOW_S)

    @property
    def step_s(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.steps_s)

    @property
    def update_s(self) -> float:
        """Median seconds of the optimizer's part of it."""
        return statistics.median(self.updates_s)

    @property
    def pass_s(self) -> float:
        """Seconds that each micro-batch takes whatever is in it, by the line through a thin and a whole step; 0 where
        there is one point only.
        """
        if not self.thin_s:
            return 0.0
        thin_s = statistics.median(self.thin_s) - self.update_s
        whole_s = self.step_s - self.update_s
        # whole = micros * pass + samples * sample, thin = pass + sample
        found = (thin_s - whole_s / self.samples) / (1 - self.micros / self.samples)
        return min(max(0.0, found), max(0.0, thin_s))


class Runner:
    """Takes this rank's share of steps, alone, forward to optimizer. Makes the model and warms up."""

    def __init__(self, context: RunContext, data: Samples, stop: Callable[[], bool]) -> None:
        self._context = context
        self._data = data
        self._stop = stop
        self._step = 0
        self._strategy = cast(Synchronous, build_strategy(_alone(context), model_of(context, data)))
        self.pace = Pace()
        for _ in range(WARM_UP):
            self.step()
        self.pace = Pace()

    def step(self) -> None:
        """One more. InterruptedRun when somebody asked this rank to stop."""
        if self._stop():
            raise InterruptedRun("stopped as asked")
        self._step += 1
        batch = share_of(self._context, self._data, self._step)
        pace = self.pace
        pace.steps_s.append(self._takes_s(batch))
        # Once more by itself, to tell what of a step does not depend on its samples: its gradients are scratch by now.
        began = time.perf_counter()
        self._strategy.adamw.step(0, 0.0, 1.0)
        _settle(self._context.device)
        pace.updates_s.append(time.perf_counter() - began)
        pace.samples, pace.micros = sum(len(x) for x, _ in batch), len(batch)
        pace.tokens = sum(y.numel() for _, y in batch)
        # Another shape would be compiled by itself, and may change how the first one is.
        if pace.samples > pace.micros and not self._context.run.training.compile:
            x, y = batch[0]
            pace.thin_s.append(self._takes_s([(x[:1], y[:1])]))

    def _takes_s(self, batch: Batch) -> float:
        """Seconds of a step, forward to optimizer."""
        began = time.perf_counter()
        # The work is the same at any rate, and at none the loss cannot run away.
        self._strategy.train_step(batch, 0.0)  # type: ignore[attr-defined]
        _settle(self._context.device)
        took = time.perf_counter() - began
        return took + self._context.wires.slowed(took, self._stop)

    def close(self) -> None:
        """Let go of the model."""
        self._strategy.close()


def versions() -> dict[str, str]:
    """What computes here, for a profile."""
    return {
        "smolcluster": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _alone(context: RunContext) -> RunContext:
    """The same share as the whole run of one rank."""
    run = context.run.model_copy(update={"strategy": "single"})
    me = context.me.model_copy(update={"rank": 0, "local_rank": 0, "peers": {}, "encrypt": {}})
    changes = {"run": run, "world_size": 1, "ranks": (me,), "global_batch": max(1, me.samples), "wire": "fp32"}
    return replace(context, plan=context.plan.model_copy(update=changes), me=me, wires=Alone())


def _settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
