"""A worker of the synchronous parameter server. It has no optimizer: it computes on the weights that it pulled last."""

from __future__ import annotations

from smolcluster.strategies.star.worker import StarWorker


class Worker(StarWorker):
    """A pull is Polyak's average of what it has seen: w <- alpha x server + (1 - alpha) x w. Who joins begins anew, and
    so does whose gradient was late: what it has is old.
    """

    optimizes = False

    def between(self, lr: float, clip: float) -> None:  # noqa: ARG002
        """Wait for the others: the next samples come when the step has closed."""
        self._settle()

    def pulled(self) -> None:
        """Take the server's weights into the average."""
        alpha = self.run.training.polyak_alpha
        if alpha == 1:
            self.flat.params.copy_(self.incoming.base)
        else:
            self.flat.params.lerp_(self.incoming.base, alpha)
