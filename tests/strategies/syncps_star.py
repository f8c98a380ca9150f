"""A star of syncps in one thread, without wires: nothing happens but by the test's calls, on its own clock."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from strategy_jobs import context_of
from strategy_models import model_of, samples_of

from smolcluster.comm.letter import Letter
from smolcluster.comm.mailbox import Delivered, Event, Joined, Left, Member
from smolcluster.runtime.context import RunContext
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.leases import Lease, Leases
from smolcluster.strategies.star.server import Update
from smolcluster.strategies.star.solo import solo
from smolcluster.strategies.syncps import Server, Worker

LR = 1e-2
Samples = tuple[torch.Tensor, torch.Tensor]


def star_of(workers: int, batch: int = 6, wire: WireFormat = "fp32", **run: Any) -> list[RunContext]:
    """Contexts of a server and so many workers, who share a global batch of workers x batch samples."""
    contexts = [context_of("syncps", rank, workers + 1) for rank in range(workers + 1)]
    plan = contexts[0].plan
    ranks = tuple(
        rank.model_copy(update={"role": "worker" if rank.rank else "server", "samples": batch if rank.rank else 0})
        for rank in plan.ranks
    )
    given = {"worker_update_interval": 1, **run}
    training = plan.run.training.model_copy(update={"polyak_alpha": given.pop("alpha", 1.0)})
    spec = plan.run.model_copy(update={**given, "training": training})
    changes = {"ranks": ranks, "run": spec, "global_batch": workers * batch, "shape": "STAR", "wire": wire}
    plan = plan.model_copy(update=changes)
    return [replace(context, plan=plan, me=ranks[context.rank]) for context in contexts]


def samples_at(start: int, stop: int, batch: int) -> Samples:
    """The samples at positions of the run's line, whose batches are strategy_models' steps."""
    batches = [samples_of(step, batch) for step in range(start // batch, -(-stop // batch))]
    first = start // batch * batch
    x, y = (torch.cat(parts)[start - first : stop - first] for parts in zip(*batches, strict=True))
    return x, y


class Paused(Exception):
    """A worker waits for a letter."""


class Post:
    """The mailbox of a star without wires, and each worker's end of it."""

    generation = 0

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.events: deque[Event] = deque()
        self.letters: dict[int, deque[Letter]] = {rank: deque() for rank in range(1, workers + 1)}
        self.here: dict[int, Member] = {}
        self.cuts: list[int] = []
        self._count = 0

    def receive(self, timeout_s: float) -> Event | None:
        assert timeout_s >= 0
        return self.events.popleft() if self.events else None

    def send(self, member: Member, letter: Letter) -> None:
        if self.here.get(member.rank) == member:
            self.letters[member.rank].append(letter)

    def cut(self, member: Member) -> None:
        self.cuts.append(member.rank)

    def members(self) -> tuple[Member, ...]:
        return tuple(self.here.values())

    def join(self, rank: int, samples: int, incarnation: int | None = None) -> None:
        self._count += 1
        self.here[rank] = Member(rank, 100 + self._count if incarnation is None else incarnation, self._count)
        self.letters[rank].clear()
        self.events.append(Joined(self.here[rank], {"samples": samples}))

    def leave(self, rank: int) -> None:
        self.events.append(Left(self.here.pop(rank), "killed", orderly=False))


class Line:
    """A worker's end: what a Caller is to it."""

    generation = 0
    timeout_s = 1.0

    def __init__(self, post: Post, rank: int) -> None:
        self._post = post
        self._rank = rank
        self.sent: list[Letter] = []

    def send(self, letter: Letter) -> None:
        # A copy: what is under way is not changed by what the worker does next.
        self.sent.append(replace(letter, body=letter.body.clone()))

    def receive(self, timeout_s: float) -> Letter:
        if not self._post.letters[self._rank]:
            raise Paused
        return self._post.letters[self._rank].popleft()


class Star:
    """A server and its workers. Nothing happens but by the test's calls."""

    def __init__(self, contexts: Sequence[RunContext], kind: str = "tiny", steps: int = 1000) -> None:
        self.contexts = contexts
        self.kind = kind
        self.batch = contexts[0].plan.global_batch
        self.now = 100.0
        self.post = Post(len(contexts) - 1)
        self.workers: dict[int, Worker] = {}
        self.lines: dict[int, Line] = {}
        self.given: list[Lease] = []
        centre = Centre(solo(contexts[0]), model_of(kind, seed=5))
        self.server = Server(solo(contexts[0]), centre, self.post, self.batch, lambda _: LR)  # type: ignore[arg-type]
        self.server.leases = Leases(steps * self.batch)
        self.server.clock = lambda: self.now

    def turn(self) -> None:
        """The server sees to all that has come, and to what is due."""
        self.server.turn(0.0)
        while self.post.events:
            self.server.turn(0.0)

    def join(self, *ranks: int) -> None:
        for rank in ranks:
            self.lines[rank] = Line(self.post, rank)
            # Other weights than the server's, which must win.
            model = model_of(self.kind, seed=50 + rank)
            context = solo(self.contexts[rank])
            self.workers[rank] = Worker(context, model, self.lines[rank], lambda: False, lambda _: None, 1.0)  # type: ignore[arg-type]
            self.workers[rank]._take_up(0)
            self.post.join(rank, self.contexts[rank].me.samples)
        self.turn()

    def leave(self, rank: int) -> None:
        del self.workers[rank]
        self.post.leave(rank)
        self.turn()

    def compute(self, rank: int) -> Letter:
        """What the worker pushes for the lease it has; the server has not got it yet."""
        worker = self.workers[rank]
        lease = worker.lease()
        assert lease is not None
        self.given.append(lease)
        batch = [samples_at(lease.start, lease.start + lease.count, self.batch)]
        with contextlib.suppress(Paused):
            worker.train_step(batch, lease)
        return self.lines[rank].sent.pop()

    def deliver(self, rank: int, letter: Letter) -> None:
        self.post.events.append(Delivered(self.post.here[rank], letter))
        self.turn()

    def idle(self, rank: int) -> bool:
        """Whether it has no lease, and waits for one."""
        try:
            lease = self.workers[rank].lease()
        except Paused:
            return True
        assert lease is not None
        self.workers[rank]._leases.appendleft(lease)
        return False

    def round(self) -> Update:
        """Everybody on time."""
        before = len(self.server.updates)
        for rank in sorted(self.workers):
            self.deliver(rank, self.compute(rank))
        assert len(self.server.updates) == before + 1
        return self.server.updates[-1]

    @property
    def params(self) -> torch.Tensor:
        return self.server.centre.flat.params


def star(workers: int, **given: Any) -> Star:
    made = Star(star_of(workers, **given))
    made.join(*range(1, workers + 1))
    return made
