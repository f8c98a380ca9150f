"""The gradient's norm of every parameter, measured where the gradient lies: what training.track_gradients records.

Each rank sums the squares of its own share, parameter by parameter; one small exchange adds them up. That is done only
in the steps that were asked for, which all ranks know by their number, so no rank waits for another's collective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from smolcluster.strategies.flat import Layout
from smolcluster.strategies.pieces import Piece, Range, slices_of
from smolcluster.strategies.squares import sum_of_squares

Exchange = Callable[[list[float]], list[list[float]]]


class LayerNorms:
    """`ask` before a step, `measure` in it when the gradients are summed over ranks, `agree` after its verdict.

    names: of all parameters, the same list on every rank, where ranks hold different ones.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = tuple(names)
        self._wanted = False
        self._squares: dict[str, float] | None = None

    def ask(self) -> None:
        """The next step's norms are wanted."""
        self._wanted = True

    def measure(self, layout: Layout, grads: Iterable[Piece], mine: Iterable[Range]) -> None:
        """Look at this rank's share, if that is wanted. Without a word on the wire: the step may yet fail."""
        self._squares = None
        if self._wanted:
            self._squares = dict.fromkeys(self._names or [span.name for span in layout.spans], 0.0)
            for part in slices_of(layout, "{}", grads, mine):
                self._squares[part.name] += sum_of_squares(part.tensor)
        self._wanted = False

    def agree(self, tokens: float, exchange: Exchange) -> dict[str, float] | None:
        """The norms of the mean gradient, by parameter, the same everywhere; None if nobody asked.

        `tokens`: what the gradients are sums over, times the factor of their loss scale.
        """
        if self._squares is None:
            return None
        rows = exchange(list(self._squares.values()))
        sums = [math.fsum(column) for column in zip(*rows, strict=True)]
        return {name: math.sqrt(total) / tokens for name, total in zip(self._squares, sums, strict=True)}
