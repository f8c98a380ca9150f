"""The outer optimizer: what all replicas agree on after a round, and how they come to it.

The anchor is where every replica began the round. A rank's contribution is how far its own steps went from there, times
its part of the round's tokens; the sum over ranks is the outer gradient, with its sign turned, of SGD with Nesterov's
momentum (arXiv:2311.08105). It is summed into scratch memory. Anchor and momentum change in `commit` alone, and what
int8 owes stays as it was until then: a round that fails on its way can be exchanged again by those who are left.
"""

from __future__ import annotations

import torch

from smolcluster.strategies.flat import FlatParameters
from smolcluster.strategies.sums import Sums


class Outer:
    """The anchor and the momentum of a replica whose parameters lie in `flat`. `sums` adds up over ranks."""

    def __init__(self, flat: FlatParameters, sums: Sums, lr: float, momentum: float) -> None:
        self.anchor = flat.params.clone()
        self.momentum = torch.zeros_like(flat.params) if momentum else None
        self._flat = flat
        self._sums = sums
        self._lr = lr
        self._mu = momentum
        self._owed: torch.Tensor | None = None

    def contribute(self, began: torch.Tensor, weight: float, scratch: torch.Tensor) -> None:
        """Put into `scratch` how far this rank went from where it `began`, times its weight."""
        torch.sub(self._flat.params, began, out=scratch).mul_(weight)

    def exchange(self, scratch: torch.Tensor) -> None:
        """Leave the sum of all ranks' contributions in `scratch`, as long as the parameters, the same bits everywhere.

        Whatever it raises, everything but `scratch` is as it was before.
        """
        self._owed = self.owed()
        try:
            under_way = [
                self._sums.all_reduce(bucket.index, self._flat.bucket(scratch, bucket)) for bucket in self._flat.buckets
            ]
            for pending in under_way:
                pending.wait()
        except BaseException:
            self.take_back()
            raise

    def take_back(self) -> None:
        """What was exchanged is not committed: what int8 owes is what it owed before."""
        if self._owed is not None:
            self.owe(self._owed)
            self._owed = None

    def owed(self) -> torch.Tensor | None:
        """What int8 has not sent yet of this rank's contributions, as long as the parameters; None in other formats."""
        return torch.cat([piece.values for piece in self._sums.residuals]) if self._sums.residuals else None

    def owe(self, owed: torch.Tensor | None) -> None:
        """Owe this instead; it may be of another cut, whose padding alone is longer or shorter."""
        self._sums.forget()
        if owed is None:
            return
        for piece in self._sums.residuals:
            part = owed[piece.start : piece.stop]
            piece.values[: len(part)].copy_(part)

    def commit(self, total: torch.Tensor, plain: bool = False) -> None:
        """Take the outer step with the sum of all contributions: the anchor moves. `plain`: as far as it says, and
        momentum does not hear of it."""
        self._owed = None
        if plain:
            self.anchor.add_(total)
        elif self.momentum is None:
            self.anchor.add_(total, alpha=self._lr)
        else:
            self.momentum.mul_(self._mu).add_(total)
            self.anchor.add_(total, alpha=self._lr).add_(self.momentum, alpha=self._lr * self._mu)

    def begin_at(self, params: torch.Tensor) -> None:
        """Start from these parameters: they were loaded."""
        self.anchor.copy_(params)
