"""What a strategy is. It owns the whole step; loop, schedule, evaluation, metrics are elsewhere, the same for all.

A strategy is one module (or package) of this folder with a function `build(context, model) -> Strategy`, found by name.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import nn

from smolcluster.errors import ConfigError, Problem, TrainingError
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import Slice
from smolcluster.spec.built import BUILT
from smolcluster.spec.problems import listed

# A step's work for one rank: its micro-batches (x, y). Gradients are summed over them; no micro-batch is allowed.
Batch = Sequence[tuple[torch.Tensor, torch.Tensor]]
# What helps where numbers are not finite.
ADVICE = "lower training.learning_rate, lengthen lr_schedule.warmup_iters or set training.grad_clip_norm"


@dataclass(frozen=True)
class LocalWork:
    """One rank's part of a round: its own steps and their tokens, and the length of the slot, None for the first."""

    steps: int
    tokens: int
    slot_s: float | None


@dataclass(frozen=True)
class StepResult:
    """One step of the whole cluster, the same on every rank but for the times.

    loss: mean over all ranks' tokens, before the update. grad_norm: of the mean gradient, before clipping; layer_norms:
    the same by parameter, where they were asked for. comm_s: seconds this rank waited on communication that nothing
    hid; compute_s: the rest. stop: some rank asked for the end. loss_scale: float16's (scaling.py), None without.
    skipped: float16 overflowed: nothing was updated, grad_norm is 0.

    lags: of ranks that may be steps apart, by the rank that owns a shard, how many steps its weights lacked of
    somebody's gradients; staleness: the most of them. Loss and tokens are then those of the last step that all have
    told of, and grad_norm is this rank's own. applied: at a fence, how many gradients this rank's shard has taken since
    the last one.

    steps: how many steps of the run, in global batches, this was. local: what this rank did of it, where ranks do not
    all do the same (TakesRounds).
    """

    loss: float
    tokens: int
    grad_norm: float
    compute_s: float
    comm_s: float
    stop: bool
    staleness: int = 0
    lags: tuple[int, ...] = ()
    applied: int | None = None
    layer_norms: Mapping[str, float] | None = None
    loss_scale: float | None = None
    skipped: bool = False
    steps: int = 1
    local: LocalWork | None = None


@dataclass(frozen=True)
class LossSum:
    """A sum of losses over `tokens` elements of y: what can be added up over batches and ranks.

    right: how many of them a model that tells classes told right; 0 of another model, and while training.
    """

    loss: float
    tokens: int
    right: int = 0

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(self.loss + other.loss, self.tokens + other.tokens, self.right + other.right)


class NotFiniteError(TrainingError):
    """A loss or gradient is infinite or not a number. `rank` is the first whose loss shows it, None if none does."""

    def __init__(self, message: str, rank: int | None) -> None:
        super().__init__(message)
        self.rank = rank


class Model(Protocol):
    """What a strategy needs of a model besides being an nn.Module: the mean loss of a batch, a scalar with a graph.

    It may also have `shard_units() -> Sequence[ShardUnit]` (models/units.py): the stretches of its forward pass whose
    parameters fsdp stage 3 gathers one after the other. Without it the whole model is one unit. And a model that tells
    classes has `graded(x, y) -> (mean loss, how many were told right)`, from which its accuracy comes.
    """

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The mean over the elements of y."""
        ...


@runtime_checkable
class TellsClasses(Protocol):
    """A model whose answers are right or wrong."""

    def graded(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss over the elements of y, and how many of them were told right; two scalars."""
        ...


class Strategy(Protocol):
    """How the ranks of a run take a step together. Every rank must make the same calls in the same order.

    evaluates_together: whether eval_loss talks to the other ranks. Then all must call it equally often.
    last_loss: of the last step whose loss was finite, which stands for one that float16 leaves out.
    """

    evaluates_together: bool
    last_loss: float | None

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this rank's share of a step. NotFiniteError before anything was updated; PeerError if a rank is gone."""
        ...

    def ask_layer_norms(self) -> None:
        """Have the next step measure `layer_norms` too. All ranks must call it before the same step."""
        ...

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """The loss of this rank's batch, which may be empty, without training."""
        ...

    def export(self) -> dict[str, torch.Tensor] | None:
        """The model's parameters, whole, by name, on rank 0; None elsewhere. Every rank must call it."""
        ...

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's few numbers in rank order, the same bits everywhere."""
        ...

    def named_slices(self) -> Iterator[Slice]:
        """What this rank owns of parameters and optimizer: over all ranks every element exactly once."""
        ...

    def held_slices(self) -> Iterator[Slice]:
        """What lies on this rank, owned or not: all that load_slices has to be given."""
        ...

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """Take all that this rank holds from slices of any cut. ValueError if something is missing."""
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


class Feed(Protocol):
    """What the loop gives a strategy that decides for itself how many steps it takes: samples and rates, one by one.

    steps: those the run has taken, in global batches, of `total_steps`. stop: whether this rank is asked to end.
    """

    steps: int
    total_steps: int

    def take(self, step: int, number: int) -> tuple[Batch, float]:
        """Begin this rank's next step: its share of the global batch `number` (from 1), and the rate of step `step`."""
        ...

    def computed(self, seconds: float) -> float:
        """A step took so long to compute: wait as long as this rank is to be slowed on purpose. Seconds waited."""
        ...

    def stop(self) -> bool:
        """Whether this rank was asked to end."""
        ...


@runtime_checkable
class TakesRounds(Protocol):
    """A strategy whose ranks take several steps, not all as many, before they exchange anything."""

    def train_round(self, feed: Feed) -> StepResult:
        """Take this rank's part in a round. Errors as of train_step."""
        ...


@runtime_checkable
class Fences(Protocol):
    """A strategy whose ranks are not all at the same step: its state is whole at fences only."""

    def fence(self, result: StepResult) -> StepResult:
        """All ranks rest after the step that had this result, and give it as all know it now. Errors as of train_step.

        Before losses are measured, the state is read, or a run ends; all ranks after the same step.
        """
        ...


@dataclass(frozen=True)
class Met:
    """How far the run is for ranks that met again. leader: whose account of it counts. tokens: of all ranks so far."""

    leader: int
    steps: int
    tokens: int


@runtime_checkable
class Survives(Protocol):
    """A strategy whose ranks go on when others are lost, in a new group, from what they hold in memory."""

    def carry(self) -> object:
        """What this rank takes along; its group has failed. This strategy is not used any more."""
        ...

    def meet(self, carried: object | None) -> Met | None:
        """Go on together from what ranks carried here, in a new group; None, and nothing happened, if none has any."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What all ranks conclude from one small exchange: the step's loss, and the factor for the summed gradients.

    skip: float16 overflowed somewhere, so nothing is updated; loss is then not finite if a rank's was not.
    """

    loss: float
    tokens: int
    grad_norm: float
    scale: float
    stop: bool
    skip: bool = False


@dataclass(frozen=True)
class Tally:
    """One rank's part of that exchange. `squares`: the sum of squares of its share of the summed gradients."""

    loss_sum: float
    tokens: int
    stop: bool
    squares: float

    def row(self) -> list[float]:
        """As it travels, and as `judge` reads it."""
        return [self.loss_sum, float(self.tokens), float(self.stop), self.squares]


def judge(rows: list[list[float]], max_norm: float | None, loss_scale: float = 1.0, skippable: bool = False) -> Verdict:
    """Make the same decision from the same rows on every rank: pure, in float64, in rank order.

    The gradients are sums of loss times tokens times `loss_scale`; `scale` makes them the mean over all tokens, clipped
    to `max_norm`. What is not finite is NotFiniteError, or where it is `skippable` a step that is left out.
    """
    tokens = sum(int(row[1]) for row in rows)
    if tokens == 0:
        raise ValueError("no rank had a sample in this step")
    stop = any(row[2] for row in rows)
    if skippable and not all(math.isfinite(row[0]) and math.isfinite(row[3]) for row in rows):
        return Verdict(sum(row[0] for row in rows) / tokens, tokens, 0.0, 0.0, stop, skip=True)
    _refuse_what_is_not_finite(rows)
    norm = math.sqrt(math.fsum(row[3] for row in rows)) / loss_scale / tokens
    loss = math.fsum(row[0] for row in rows) / tokens
    return Verdict(loss, tokens, norm, clip_factor(norm, max_norm) / tokens / loss_scale, stop)


def clip_factor(norm: float, max_norm: float | None) -> float:
    """What a gradient of that norm is multiplied by, to be clipped."""
    # 1e-6 as in torch.nn.utils.clip_grad_norm_, whose numbers people know.
    return 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))


def _refuse_what_is_not_finite(rows: list[list[float]]) -> None:
    for rank, row in enumerate(rows):
        if not math.isfinite(row[0]):
            raise NotFiniteError(f"the loss of rank {rank} is not finite: {ADVICE}", rank)
    if not all(math.isfinite(row[3]) for row in rows):  # summed over ranks already: nobody knows whose it was
        raise NotFiniteError(f"the gradient is not finite, though every rank's loss is: {ADVICE}", None)


def build_strategy(context: RunContext, model: nn.Module) -> Strategy:
    """The strategy the plan names, over a model on `context.device`. ConfigError if there is none of that name."""
    package = importlib.import_module("smolcluster.strategies")
    name = context.run.strategy
    builders = {info.name for info in pkgutil.iter_modules(package.__path__)}
    module = importlib.import_module(f"smolcluster.strategies.{name}") if name in builders else None
    build = getattr(module, "build", None)
    if build is None:
        what = f"strategy {name} cannot train in this version"
        raise ConfigError([Problem("", 0, "strategy", what, f"use one of {listed(BUILT)}")])
    return cast(Strategy, build(context, model))
