"""How long a machine takes for the layers of a served model, from what was measured of one of them. Pure.

A step of few tokens costs what reading the weights costs, one of many what their products cost: so one layer and the
head were timed with several numbers of rows, and between those it goes straight. Of another model the times go by the
parameters of its layers, of another precision they are not known.

A stage of several works for a part of the time only. What limits it all the time need not slow it down then: a share of
a core (a container's quota) is saved up while it waits, what is hot cools down, and two that share a memory are not in
each other's way. Others are slower after a rest: clocks have to go up again. So both are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pydantic import Field

from smolcluster.spec.base import Frozen


class DecodePace(Frozen):
    """One machine: seconds of one layer (`layer_s`) and of norm and head (`head_s`) for so many `rows` at once.

    On layers of `layer_params` and a head of `table_params` parameters, in fp32, without a pause. `rested`: the part of
    `layer_s` that it takes where machines work in turn; nothing where that was not measured, which counts as 1.
    """

    rows: tuple[int, ...] = Field(min_length=1)
    layer_s: tuple[float, ...]
    head_s: tuple[float, ...]
    layer_params: int = Field(gt=0)
    table_params: int = Field(gt=0)
    rested: tuple[float, ...] = ()

    def rest(self, rows: float) -> float:
        """What so many rows take after a rest, as a part of what they take without one."""
        return between(self.rows, self.rested, rows) if self.rested else 1.0

    def layers_s(self, layers: int, layer_params: int, rows: float) -> float:
        """So many layers of another size, for so many rows."""
        return layers * between(self.rows, self.layer_s, rows) * layer_params / self.layer_params

    def words_s(self, table_params: int, rows: float) -> float:
        """The head of another size, for so many rows whose next token is asked for."""
        return between(self.rows, self.head_s, rows) * table_params / self.table_params


def between(rows: Sequence[int], seconds: Sequence[float], wanted: float) -> float:
    """Straight between the points that were measured; beyond the last as from the one before it on."""
    if wanted <= rows[0] or len(rows) == 1:
        return seconds[0]
    spans = list(zip(pairwise(rows), pairwise(seconds), strict=True))
    (low, high), (first, then) = next((span for span in spans if wanted <= span[0][1]), spans[-1])
    return max(first, first + (then - first) * (wanted - low) / (high - low))
