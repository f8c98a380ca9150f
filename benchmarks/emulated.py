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
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smolcluster.models import build_model
from smolcluster.spec.run import GPTSpec

SPEC = GPTSpec(
    model_dim=64, num_layers=2, num_heads=2, ff_dim=128, dropout=0, max_seq_len=32, tie_embeddings=True, vocab_size=64
)
# Of a sample's time, as in most models.
FORWARD = 1 / 3


@dataclass(frozen=True)
class Race:
    """What all contestants train: the same samples in the same order, `steps` times `batch` of them.

    `pace_s`: by rank, the seconds that one sample takes it. Rank 0 looks at the validation loss every `look` steps'
    samples; the clock stands still meanwhile.
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

    def batch_at(self, step: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Samples `first` and on of the step's batch: (count, T) inputs and targets. Step -1 and below: to validate."""
        rows = self._chains(1_000_000 + step, self.batch)[first : first + count]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def _chains(self, seed: int, count: int) -> Tensor:
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
    """How a contestant did, by rank 0's clock: validation losses at (seconds, step), and what a step took."""

    losses: list[tuple[float, int, float]] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)

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
        x, y = race.batch_at(number, first, shares[rank])
        began = time.perf_counter()
        step(x, y)
        track.steps_s.append(time.perf_counter() - began)
        clock_s += track.steps_s[-1]
        if (number + 1) % race.look == 0:
            if rank == 0:
                track.losses.append((clock_s, number + 1, validation(race, model)))
            dist.barrier()  # nobody begins the next step while rank 0 looks
    return track


@torch.no_grad()
def validation(race: Race, model: Emulated) -> float:
    """The loss on samples that nobody trains on."""
    return float(model.inner.loss(*race.batch_at(-1, 0, race.batch)))
