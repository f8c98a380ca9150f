"""The server's model: the weights everybody works on, and their AdamW. It computes no gradient; it is given them."""

from __future__ import annotations

import math

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import ADVICE, NotFiniteError, clip_factor
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.squares import sum_of_squares


class Centre(Replica):
    """One flat line of parameters, one of gradients (`whole_grads`), two of moments. Checkpoints are those of `single`:
    any strategy goes on from one, and this from any.
    """

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients([(0, self.flat.length)], send=None)
        # By parameter, of the gradient of the last update that they were asked for.
        self.layer_norms: dict[str, float] | None = None

    @property
    def version(self) -> int:
        """How often the weights were updated."""
        return int(self.adamw.steps[0])

    def update(self, lr: float) -> float:
        """One step of AdamW with the mean gradient in `whole_grads`, clipped; its norm before that. NotFiniteError."""
        norm = math.sqrt(sum_of_squares(self.whole_grads))
        if not math.isfinite(norm):
            raise NotFiniteError(f"a gradient that was pushed is not finite: {ADVICE}", None)
        self._layer_norms.measure(self.layout, self.grads, self.my_shards())
        self.layer_norms = self._layer_norms.agree(1.0, lambda values: [values]) or self.layer_norms
        self.adamw.step(0, lr, clip_factor(norm, self.max_norm))
        return norm
