"""A worker of the synchronous parameter server. It has no optimizer: it computes on the weights that it pulled last."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.star.worker import ServerLink, StarWorker


class Worker(StarWorker):
    """A pull is Polyak's average of what it has seen: w <- alpha x server + (1 - alpha) x w. Who joins begins anew."""

    optimizes = False

    def __init__(
        self,
        context: RunContext,
        model: nn.Module,
        caller: ServerLink,
        stop: Callable[[], bool],
        entered: Callable[[int], None],
        join_s: float,
    ) -> None:
        super().__init__(context, model, caller, stop, entered, join_s)
        self._alpha = context.run.training.polyak_alpha

    def between(self, lr: float, clip: float) -> None:  # noqa: ARG002
        """Wait for the others: the next samples come when the step has closed."""
        self._settle()

    def pulled(self) -> None:
        """Take the server's weights into the average."""
        if self._alpha == 1:
            self.flat.params.copy_(self.incoming.base)
        else:
            self.flat.params.lerp_(self.incoming.base, self._alpha)
