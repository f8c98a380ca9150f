"""Time slots: how long a round lasts, and what everybody concludes from its table. Pure: no clock, no wire, no torch.

After each round every rank has the same table, one row a rank, and one function of it gives everybody the next slot,
who takes part and how much each one's contribution weighs. Ranks never compare clocks: a row holds durations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from smolcluster.strategies.base import ADVICE, NotFiniteError


@dataclass(frozen=True)
class Row:
    """What one rank did in a round. `number` counts rounds, `generation` the groups of ranks that made them.

    step_s: seconds of one of its steps, its mean over the slot. taken: of how many global batches it has had its share
    so far. loss_sum, norm_sum: of the loss and of the gradient's norm, each times the step's tokens. stop: it was asked
    to end.
    """

    number: int
    generation: int
    steps: int
    samples: int
    tokens: int
    step_s: float
    taken: int
    loss_sum: float
    norm_sum: float
    stop: bool

    def values(self) -> list[float]:
        """As it travels. float64 holds the counts exactly."""
        return [float(value) for value in astuple(self)]

    @staticmethod
    def of(values: Sequence[float]) -> Row:
        """The row that travelled so."""
        number, generation, steps, samples, tokens, step_s, taken, loss_sum, norm_sum, stop = values
        return Row(
            int(number), int(generation), int(steps), int(samples), int(tokens), step_s, int(taken),
            loss_sum, norm_sum, bool(stop),
        )  # fmt: skip


@dataclass(frozen=True)
class Conclusion:
    """What everybody concludes from a table: the same on every rank.

    slot_s: how long the next slot is. members: the ranks whose round this was, in order. weights: each rank's part of
    the tokens, 0 for others. loss and grad_norm: means over all tokens of the round.
    """

    slot_s: float
    members: tuple[int, ...]
    weights: tuple[float, ...]
    samples: int
    tokens: int
    loss: float
    grad_norm: float
    stop: bool


def slot_of(step_times: Sequence[float], most_steps: int) -> float:
    """The slot in which the fastest takes `most_steps`, or that in which the slowest takes one if it is longer."""
    return max(most_steps * min(step_times), max(step_times))


def goes_on(steps: int, elapsed_s: float, slot_s: float, most_steps: int) -> bool:
    """Whether a rank that took `steps` in `elapsed_s` takes another: one in any case, then as long as half fits."""
    if steps < 1:
        return True
    return steps < most_steps and elapsed_s + elapsed_s / steps / 2 <= slot_s


def conclude(rows: Sequence[Row], most_steps: int) -> Conclusion:
    """What the table says. NotFiniteError, on all ranks, if somebody's loss or gradient is not finite.

    Rows of an older round are of ranks that were not there: they count for nothing. ValueError if nobody took a sample.
    """
    newest = max(row.number for row in rows)
    members = tuple(rank for rank, row in enumerate(rows) if row.number == newest)
    counted = [rows[rank] for rank in members]
    for rank in members:
        for what, value in (("loss", rows[rank].loss_sum), ("gradient", rows[rank].norm_sum)):
            if not math.isfinite(value):
                raise NotFiniteError(f"the {what} of rank {rank} is not finite: {ADVICE}", rank)
    tokens = sum(row.tokens for row in counted)
    if tokens == 0:
        raise ValueError("no rank had a sample in this round")
    return Conclusion(
        slot_s=slot_of([row.step_s for row in counted if row.steps], most_steps),
        members=members,
        weights=tuple(row.tokens / tokens if row.number == newest else 0.0 for row in rows),
        samples=sum(row.samples for row in counted),
        tokens=tokens,
        loss=math.fsum(row.loss_sum for row in counted) / tokens,
        grad_norm=math.fsum(row.norm_sum for row in counted) / tokens,
        stop=any(row.stop for row in rows),
    )
