"""Who races in benchmarks.unequal: torch's DDP, and three answers of ours to a rank that is always slow.

balanced classicdp    shares of the batch after the ranks' paces; the gradients are those of even shares
diloco                time slots: who is faster takes more steps of its own in a round
edp                   a server of its own, and workers that never wait for each other: who is faster sends more

All take the same samples in batches of the same size, and are looked at alike: the weights that all ranks agree on
(DDP, classicdp: any replica's; diloco: the anchor after a round; edp: the server's) on the same samples to validate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contestants import CLIP_NORM, WEIGHT_DECAY, context_of
from benchmarks.emulated import SPEC, Emulated, Race, Track, in_lockstep, validation
from benchmarks.ranks import LOOPBACK, TIMEOUT_S, Transport
from smolcluster.comm.caller import Caller
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.mailbox import Mailbox
from smolcluster.plan.shares import Cost, quickest
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, build_strategy
from smolcluster.strategies.diloco.rounds import DiLoCo
from smolcluster.strategies.edp import Server, Worker
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.leases import Leases
from smolcluster.train.star.part import most_bytes_of

# Steps of the fastest rank in a round of diloco, and of a worker of edp between two pulls.
EVERY, INTERVAL = 10, 1
_LOOK_S, _LEAVE_S = 0.25, 10.0

# A rank's training at a learning rate: race, rank, rate.
Train = Callable[[Race, int, float], Track]


def ddp(race: Race, rank: int, rate: float) -> Track:
    """torch's DistributedDataParallel, as it comes: the same share for everybody."""
    model = Emulated(race.pace_s[rank])
    module = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        module(x, y).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimizer.step()

    return in_lockstep(race, rank, race.even, model, step)


def balanced(race: Race, rank: int, rate: float) -> Track:
    """classicdp with the shares of `balance: auto`, from the paces as a profile would have measured them."""
    model = Emulated(race.pace_s[rank])
    strategy: Any = build_strategy(context_of("classicdp", 0, rank, race.world_size, SPEC), model)
    shares = quickest(race.batch, [Cost(pace_s) for pace_s in race.pace_s])
    track = in_lockstep(race, rank, shares, model, lambda x, y: strategy.train_step([(x, y)], rate))
    strategy.close()
    return track


# -- diloco ---------------------------------------------------------------------------------------------------------


class _Slots:
    """strategies.base.Feed: this rank's even share of one batch of the race after the other."""

    def __init__(self, race: Race, rank: int, rate: float) -> None:
        self.steps, self.total_steps = 0, race.most_steps
        self._race, self._rank, self._rate = race, rank, rate

    def take(self, step: int, number: int) -> tuple[Batch, float]:  # noqa: ARG002
        """See Feed."""
        share = self._race.even[self._rank]
        return [self._race.batch_at(number - 1, self._rank * share, share)], self._rate

    def computed(self, seconds: float) -> float:  # noqa: ARG002
        """See Feed."""
        return 0.0

    def stop(self) -> bool:
        """See Feed."""
        return False


def diloco(race: Race, rank: int, rate: float) -> Track:
    """Rounds of time slots, with the outer optimizer of the shipped config."""
    model = Emulated(race.pace_s[rank])
    context = context_of("diloco", 0, rank, race.world_size, SPEC, samples=race.even[rank], outer_every=EVERY)
    strategy = build_strategy(context, model)
    assert isinstance(strategy, DiLoCo)
    feed, track, clock_s = _Slots(race, rank, rate), Track(), 0.0
    while feed.steps < feed.total_steps:
        before, began = feed.steps, time.perf_counter()
        feed.steps += strategy.train_round(feed).steps
        clock_s += time.perf_counter() - began
        if race.looks(before, feed.steps):
            if rank == 0:
                track.look(clock_s, strategy.samples_done / race.batch, validation(race, model))
            dist.barrier()  # nobody begins the next slot while rank 0 looks
    strategy.close()
    return track


# -- edp ------------------------------------------------------------------------------------------------------------


def edp(race: Race, rank: int, rate: float) -> Track:
    """Rank 0 is the server, and computes nothing; rank r is the racer r - 1. The group is only for the port."""
    port = torch.zeros((), dtype=torch.int64)
    if rank:
        dist.broadcast(port, 0)
        _work(race, rank, _group(race, rank, int(port)))
        return Track()
    with closing(_Server(race, rate)) as server:
        dist.broadcast(port.fill_(server.port), 0)
        return server.run()


class _Server:
    """As train/star drives one, without files: the weights are kept at every look, and looked at when all is over."""

    def __init__(self, race: Race, rate: float) -> None:
        self._race = race
        self._model = Emulated(0.0)
        self._mailbox = Mailbox(_group(race, 0, 0), most_bytes_of(self._model))
        self._centre = Centre(_context(race), self._model)
        self._server = Server(_context(race), self._centre, self._mailbox, race.batch, lambda _: rate)
        self._server.leases = Leases(race.most_steps * race.batch)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._mailbox.mesh.listener is not None
        return self._mailbox.mesh.listener.endpoint.port

    def run(self) -> Track:
        """Serve until all samples of the race are applied."""
        seen: list[tuple[float, float, Tensor]] = []
        server, steps, began = self._server, 0, time.perf_counter()
        while server.leases.left:
            server.turn(_LOOK_S)
            server.updates.clear()
            before, steps = steps, server.leases.applied // self._race.batch
            if self._race.looks(before, steps):
                seconds = time.perf_counter() - began
                seen.append((seconds, server.leases.applied / self._race.batch, self._centre.flat.params.clone()))
        server.finish("completed", "", _LEAVE_S)
        track = Track()
        for seconds, step, params in seen:
            self._centre.flat.params.copy_(params)
            track.look(seconds, step, validation(self._race, self._model))
        return track

    def close(self) -> None:
        """Let all go."""
        self._mailbox.close(_LEAVE_S)
        self._centre.close()


def _work(race: Race, rank: int, group: GroupConfig) -> None:
    """A worker, as train/star drives one, without files."""
    model = Emulated(race.pace_s[rank - 1])
    caller = Caller(group, most_bytes_of(model))
    worker = Worker(_context(race), model, caller, lambda: False, lambda _: None, TIMEOUT_S)
    worker.join()
    while (lease := worker.lease()) is not None:
        worker.train_step([race.samples(lease.start, lease.count)], lease)
    worker.leave()
    caller.close(_LEAVE_S)
    worker.close()


def _context(race: Race) -> RunContext:
    """A rank of a star as its model sees it: alone."""
    return context_of("edp", 0, 0, 1, SPEC, samples=race.even[0], worker_update_interval=INTERVAL)


def _group(race: Race, rank: int, port: int) -> GroupConfig:
    """The server listens at any free port, and the workers dial that."""
    return GroupConfig(
        rank=rank,
        world_size=race.world_size + 1,
        listen=() if rank else (LOOPBACK.address,),
        port=0,
        peers={0: LOOPBACK.address} if rank else {},
        peer_ports={0: port},
        timeout_s=TIMEOUT_S,
        secret=b"only of this benchmark",
    )


# -- all of them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contestant:
    """How its ranks are joined, and what each of them does; `servers`: how many ranks there are beside the racers."""

    transport: Transport
    train: Train
    servers: int = 0


REFERENCE = "DDP (gloo)"
CONTESTANTS: dict[str, Contestant] = {
    REFERENCE: Contestant("gloo", ddp),
    "classicdp, balanced": Contestant("smol", balanced),
    f"diloco, H = {EVERY}": Contestant("smol", diloco),
    "edp": Contestant("gloo", edp, servers=1),
}
