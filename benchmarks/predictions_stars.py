"""The part of benchmarks.predictions with a server (edp, syncps): rank 0 takes gradients and computes none, the others
are its workers, over links of their own that are throttled as the group's are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

import torch
import torch.distributed as dist

from benchmarks.contestants import LEARNING_RATE, batch_of, context_of
from benchmarks.ranks import LOOPBACK, TIMEOUT_S
from smolcluster.comm.caller import Caller
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.faults import Faults
from smolcluster.comm.mailbox import Mailbox
from smolcluster.models import build_model
from smolcluster.runtime.context import RunContext
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import GPTSpec
from smolcluster.strategies.star.build import server_class, worker_class
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.leases import Leases
from smolcluster.train.star.part import most_bytes_of
from smolcluster.train.star.wires import MailWires

STARS = ("edp", "syncps")
# The first global batches make room in memory.
WARM_UP = 2
_LOOK_S, _LEAVE_S = 0.25, 10.0


class Star:
    """A training of some global batches, from joining to leaving, again at each call."""

    def __init__(
        self, strategy: str, model: GPTSpec, samples: int, rank: int, world_size: int, faults: Sequence[FaultSpec]
    ) -> None:
        self._strategy, self._model, self._samples = strategy, model, samples
        self._rank, self._world_size = rank, world_size
        self._faults = tuple(faults)

    def train(self, steps: int) -> float:
        """All ranks call it. Samples a second as the server applied them, after the first few; 0 of a worker."""
        port = torch.zeros((), dtype=torch.int64)
        if self._rank:
            dist.broadcast(port, 0)
            self._work(int(port))
            return 0.0
        faults = Faults(self._faults, 0, seed=0)
        mailbox = Mailbox(self._group(0, faults), most_bytes_of(build_model(self._model, None, seed=0)))
        try:
            assert mailbox.mesh.listener is not None
            MailWires(mailbox.mesh, faults).begin_step(1)
            dist.broadcast(port.fill_(mailbox.mesh.listener.endpoint.port), 0)
            return self._serve(mailbox, steps + WARM_UP)
        finally:
            mailbox.close(_LEAVE_S)

    def _serve(self, mailbox: Mailbox, steps: int) -> float:
        batch = self._samples * (self._world_size - 1)
        with closing(Centre(self._context(), build_model(self._model, None, seed=0))) as centre:
            server = server_class(self._strategy)(self._context(), centre, mailbox, batch, lambda _: LEARNING_RATE)
            server.leases = Leases(steps * batch)
            began, before = 0.0, 0
            while server.leases.left:
                server.turn(_LOOK_S)
                server.updates.clear()
                if not before and server.leases.applied >= WARM_UP * batch:
                    began, before = time.perf_counter(), server.leases.applied
            took = time.perf_counter() - began
            server.finish("completed", "", _LEAVE_S)
            return (server.leases.applied - before) / took

    def _work(self, port: int) -> None:
        model = build_model(self._model, None, seed=0)
        faults = Faults(self._faults, self._rank, seed=0)
        caller = Caller(self._group(port, faults), most_bytes_of(model))
        MailWires(caller.mesh, faults).begin_step(1)
        worker = worker_class(self._strategy)(self._context(), model, caller, lambda: False, lambda _: None, TIMEOUT_S)
        worker.join()
        while (lease := worker.lease()) is not None:
            worker.train_step([batch_of(lease.start, lease.count, self._model.max_seq_len, self._model)], lease)
        worker.leave()
        caller.close(_LEAVE_S)
        worker.close()

    def _context(self) -> RunContext:
        """A rank of a star as its model sees it: alone."""
        return context_of(self._strategy, 0, 0, 1, self._model, samples=self._samples)

    def _group(self, port: int, faults: Faults) -> GroupConfig:
        """The server listens at any free port, and the workers dial that."""
        rank = self._rank
        return GroupConfig(
            rank=rank,
            world_size=self._world_size,
            listen=() if rank else (LOOPBACK.address,),
            port=0,
            peers={0: LOOPBACK.address} if rank else {},
            peer_ports={0: port},
            timeout_s=TIMEOUT_S,
            secret=b"only of this benchmark",
            faults=faults,
        )
