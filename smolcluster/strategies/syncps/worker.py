"""A worker of the synchronous parameter server: it has no optimizer, and computes on the weights that it pulled last."""

from __future__ import annotations

from typing import Any

from smolcluster.strategies.star.worker import StarWorker


class Worker(StarWorker):
    """A pull is Polyak's average of what it has seen: w <- alpha x server + (1 - alpha) x w."""

    optimizes = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._alpha = self.run.training.polyak_alpha

    def between(self, lr: float, clip: float) -> None:
        """Wait for the others: the next samples come when the step has closed."""

    def pulled(self, fresh: bool) -> None:
        """Who has just joined takes the server's weights as they are."""
        if fresh or self._alpha == 1:
            self.flat.params.copy_(self.incoming.base)
        else:
            self.flat.params.lerp_(self.incoming.base, self._alpha)
