"""The server's own worker, where `server_trains` asks for one: a thread with a model of its own.

To the server it is a worker like the others, with leases, gradients and an account; it tells no metrics of its own.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from smolcluster.comm.inside import Inside
from smolcluster.comm.mailbox import Mailbox
from smolcluster.data import Samples
from smolcluster.errors import PeerLostError
from smolcluster.runtime.context import Alone, RunContext
from smolcluster.strategies.star.build import worker_class
from smolcluster.strategies.star.solo import solo
from smolcluster.train.account import Account
from smolcluster.train.star.worker import WorkerLoop

# A gradient takes seconds; a run that has ended waits no longer for one that nobody wants.
_LEAVE_S = 30.0


class InsideWorker:
    """Made before the model's parameters are moved into the server's flat line; it keeps a copy of the model."""

    def __init__(self, context: RunContext, model: nn.Module, data: Samples) -> None:
        self._context = context
        self._model = copy.deepcopy(model)
        self._data = data
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._inside: Inside | None = None
        self._thread: threading.Thread | None = None

    def start(self, mailbox: Mailbox, timeout_s: float) -> None:
        """Join the server, from a thread."""
        self._inside = Inside(mailbox, self._context.rank, timeout_s)
        self._thread = threading.Thread(target=self._work, args=(self._inside,), name="smol-inside", daemon=True)
        self._thread.start()

    def watched(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """`stop`, which also raises what went wrong in here: the server then ends the run."""

        def look() -> bool:
            if self._error is not None:
                raise self._error
            return stop()

        return look

    def close(self) -> None:
        """Break off what is under way."""
        self._over.set()
        if self._inside is not None:
            self._inside.leave()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)

    def _work(self, inside: Inside) -> None:
        try:
            self._train(inside)
        except PeerLostError:  # the server has closed
            pass
        except BaseException as error:  # noqa: BLE001  raised where the server looks whether to stop
            self._error = error
        finally:
            inside.close()

    def _train(self, inside: Inside) -> None:
        context = replace(solo(self._context), wires=Alone())
        batch, join_s = self._context.plan.global_batch, self._context.run.comm.timeout_s
        build = worker_class(context.run.strategy)
        worker = build(context, self._model, inside, self._over.is_set, lambda _: None, join_s)
        try:
            WorkerLoop(context, worker, self._data, None, Account(), self._over.is_set, batch).run()
        finally:
            worker.close()
