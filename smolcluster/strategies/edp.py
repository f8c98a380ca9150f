"""Elastic distributed parallelism: a server, and workers that come and go. Nobody ever waits for another worker.

Every gradient is applied when it arrives, whatever it was computed on. A late one still points the right way, but less
so the more others came between. Under AdamW scaling the gradient does next to nothing, as the moments divide by it, so
the **learning rate** is damped. Staleness s is how many updates of others the weights got since the worker pulled them;
among `active` workers active - 1 of them are nobody's delay:

    lr / (1 + max(0, s - (active - 1)))

One worker: always lr. Beyond `max_staleness` a gradient is refused. Between two pulls, `worker_update_interval` steps
apart, a worker goes on with an AdamW of its own, so that the later gradients of an interval count for less. (To allow
active - 1 for each of its own steps was tried, and learned much worse at long intervals.)
"""

from __future__ import annotations

from collections.abc import Callable

from smolcluster.comm.mailbox import Mailbox
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.server import Push, StarServer
from smolcluster.strategies.star.worker import StarWorker

TOO_STALE = "too stale"


def damping(staleness: int, active: int) -> float:
    """What the learning rate of a gradient is divided by."""
    return 1.0 + max(0, staleness - (active - 1))


class Server(StarServer):
    """Applies what comes."""

    def __init__(
        self, context: RunContext, centre: Centre, mailbox: Mailbox, batch: int, rate: Callable[[float], float]
    ) -> None:
        super().__init__(context, centre, mailbox, batch, rate)
        self._max_staleness = context.run.max_staleness

    def on_push(self, push: Push) -> None:
        """One update with this gradient, at a rate that its staleness allows."""
        staleness = self.staleness(push)
        if staleness > self._max_staleness:
            self.refused(push, TOO_STALE, staleness)
            return
        self.decode(push, self.centre.whole_grads)
        lr = self.rate_after(push.lease.count) / damping(staleness, self.active)
        norm = self.centre.update(lr)
        self.applied(push, lr, norm, staleness)


class Worker(StarWorker):
    """Steps of its own between pulls."""

    def between(self, lr: float, clip: float) -> None:
        """Go on without the others."""
        self.adamw.step(0, lr, clip)

    def pulled(self) -> None:
        """Take the server's weights as they are."""
        self.flat.params.copy_(self.incoming.base)
