"""A race of unequal machines on one: a small model that really learns, and computing that takes as long as it is told.

A rank's forward and backward wait until a fixed time per sample is over, longer on a slow rank, and leave the cores to
the others meanwhile. So ranks do not slow each other down, which on a shared machine no real computing can promise.
What is real: the gradients, the optimizer, every byte on the sockets. What is not: that a machine's time is a straight
line through its samples, and the network, which is this machine's loopback.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smolcluster.models import build_model, build_stage
from smolcluster.models.partition import LayerRange
from smolcluster.spec.run import GPTSpec

SPEC = GPTSpec(
    model_dim=64, num_layers=2, num_heads=2, ff_dim=128, dropout=0, max_seq_len=32, tie_embeddings=True, vocab_size=64
)
# Of a sample's time, as in most models.
FORWARD = 1 / 3
# Batches that a look takes.
VALIDATED = 4


@dataclass(frozen=True)
class Race:
    """What all contestants train: the same samples in the same order, `steps` times `batch` of them or `most_steps`.

    `pace_s`: by rank, the seconds that one sample takes it. The validation loss is looked at every `look` steps; no
    clock counts that.
    """

    pace_s: tuple[float, ...]
    batch: int
    steps: int
    look: int

    @property
    def world_size(self) -> int:
        """How many ranks race."""
        return len(self.pace_s)

    @property
    def even(self) -> tuple[int, ...]:
        """Everybody's share where nobody balances."""
        return (self.batch // self.world_size,) * self.world_size

    @property
    def ceiling(self) -> float:
        """How many times as fast as with even shares the ranks can be, if none ever waits."""
        return max(self.pace_s) * sum(1 / pace_s for pace_s in self.pace_s) / self.world_size

    @property
    def most_steps(self) -> int:
        """So many fit at best into the time that even shares take. For methods that may learn less from a sample: all
        have the same time, and are compared after the same samples too."""
        return round(self.steps * self.ceiling)

    def looks(self, before: int, steps: int) -> bool:
        """Whether it is time for a look when `steps` are done, and `before` were the last time."""
        return steps // self.look > before // self.look

    def batch_at(self, step: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Samples `first` and on of the step's batch: (count, T) inputs and targets. Step -1 and below: to validate."""
        rows = _batch(self, step)[first : first + count]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def samples(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """The same of the line of all samples, wherever its batches begin."""
        parts = []
        while count:
            step, first = divmod(start, self.batch)
            parts.append(self.batch_at(step, first, min(count, self.batch - first)))
            start, count = start + len(parts[-1][0]), count - len(parts[-1][0])
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def make_samples(self) -> None:
        """Have them all at hand: no clock is to count their making. A fast rank of diloco takes parts of more batches
        than there are steps, at most of as many as if it were alone."""
        for step in range(-VALIDATED, self.world_size * self.steps):
            _batch(self, step)

    def chains(self, seed: int, count: int) -> Tensor:
        """Texts of a language in which some words follow a word often, and the others seldom."""
        chance = torch.Generator().manual_seed(seed)
        rows = [torch.randint(SPEC.vocab_size, (count,), generator=chance)]
        for _ in range(SPEC.max_seq_len):
            rows.append(torch.multinomial(self._follows[rows[-1]], 1, generator=chance).squeeze(1))
        return torch.stack(rows, 1)

    @cached_property
    def _follows(self) -> Tensor:
        """(V, V): how likely a word follows another."""
        return (6 * torch.randn(SPEC.vocab_size, SPEC.vocab_size, generator=torch.Generator().manual_seed(0))).softmax(
            1
        )


@cache
def _batch(race: Race, step: int) -> Tensor:
    """(B, T + 1): the samples of a step."""
    return race.chains(1_000_000 + step, race.batch)


class Emulated(nn.Module):
    """The model on a machine that takes `pace_s` for a sample, forward and backward together; it may change."""

    def __init__(self, pace_s: float) -> None:
        super().__init__()
        self.inner = build_model(SPEC, None, seed=0)
        self.pace_s = pace_s

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean loss, when the time for it is over."""
        began = time.perf_counter()
        loss: Tensor = self.inner.loss(x, y)
        whole_s = len(x) * self.pace_s
        _wait(began + FORWARD * whole_s)
        waited: Tensor = _Backward.apply(loss, (1 - FORWARD) * whole_s)
        return waited

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The same: DDP wants the loss to be what forward gives."""
        return self.loss(x, y)


class EmulatedStage(nn.Module):
    """One of `stages` even stages, a layer each, on machines that take `pace_s` for a sample's way there and back."""

    def __init__(self, rank: int, stages: int, pace_s: float) -> None:
        super().__init__()
        spec = SPEC.model_copy(update={"num_layers": stages, "tie_embeddings": False})
        self.layers = LayerRange(rank, rank + 1, stages)
        inner = build_stage(spec, self.layers, None, seed=0)
        self.inner, self.tied, self.hidden_shape = inner, inner.tied, inner.hidden_shape
        self._pace_s = pace_s

    def forward(self, x: Tensor) -> Tensor:
        """What travels on, when the time for it is over."""
        return self._emulated(len(x), lambda: self.inner(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the last stage."""
        return self._emulated(len(x), lambda: self.inner.loss(x, y))

    def _emulated(self, samples: int, compute: Callable[[], Tensor]) -> Tensor:
        began = time.perf_counter()
        out = compute()
        _wait(began + FORWARD * samples * self._pace_s)
        waited: Tensor = _Backward.apply(out, (1 - FORWARD) * samples * self._pace_s)
        return waited


class _Backward(torch.autograd.Function):
    """Lets backward begin late: what it really takes comes after it, with the gradients that leave on the way."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        _wait(time.perf_counter() + ctx.seconds)
        return grads[0], None


def _wait(until: float) -> None:
    """Let so much time pass."""
    while (left_s := until - time.perf_counter()) > 0:
        time.sleep(left_s)


@dataclass
class Track:
    """How a contestant did, by rank 0's clock: validation losses at (seconds, step). A step is so many samples of all
    ranks together, and may lie between two."""

    losses: list[tuple[float, float, float]] = field(default_factory=list)

    def look(self, seconds: float, step: float, loss: float) -> None:
        """Note a look."""
        self.losses.append((seconds, step, loss))

    @property
    def step_s(self) -> float:
        """Seconds of a step, the mean from the first look, before which there is room made in memory, to the last."""
        (began, first, _), *_, (ended, last, _) = self.losses
        return (ended - began) / (last - first)

    def loss_after(self, step: float) -> float:
        """At the first look after so many steps."""
        return next(loss for _, looked, loss in self.losses if looked >= step)

    def seconds_to(self, loss: float) -> float | None:
        """When the loss was first that low, between two looks; None if it never was."""
        before = (0.0, float("inf"))
        for seconds, _, found in self.losses:
            if found <= loss:
                high = before[1]
                part = (high - loss) / (high - found) if high not in (found, float("inf")) else 1.0
                return before[0] + part * (seconds - before[0])
            before = (seconds, found)
        return None


def in_lockstep(
    race: Race, rank: int, shares: tuple[int, ...], model: Emulated, step: Callable[[Tensor, Tensor], object]
) -> Track:
    """Train with ranks that take every step together. `step` takes this rank's samples."""
    track, clock_s = Track(), 0.0
    first = sum(shares[:rank])
    for number in range(race.steps):
        began = time.perf_counter()
        step(*race.batch_at(number, first, shares[rank]))
        clock_s += time.perf_counter() - began
        if race.looks(number, number + 1):
            if rank == 0:
                track.look(clock_s, number + 1, validation(race, model))
            dist.barrier()  # nobody begins the next step while rank 0 looks
    return track


@torch.no_grad()
def validation(race: Race, model: Emulated) -> float:
    """The loss on samples that nobody trains on."""
    losses = [float(model.inner.loss(*race.batch_at(-1 - number, 0, race.batch))) for number in range(VALIDATED)]
    return sum(losses) / VALIDATED
