"""A server of edp in the test's own thread, and who plays its workers: by hand, or real ones in threads."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from strategy_jobs import context_of
from strategy_models import TinyLM, samples_of

from smolcluster.comm.caller import Caller
from smolcluster.comm.clock import Deadline
from smolcluster.comm.codec import codec_of
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.letter import Letter
from smolcluster.comm.mailbox import Mailbox
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.edp import Server, Worker
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.leases import Leases
from smolcluster.strategies.star.messages import Op, leases_in
from smolcluster.strategies.star.solo import solo

WAIT_S = 60.0
MOST_BYTES = 1 << 22
BATCH = 8
LR = 1e-2


def context(rank: int, wire="fp32", interval: int = 1, max_staleness: int = 1000) -> RunContext:
    made = context_of("edp", rank, 3, wire=wire, samples=0 if rank == 0 else 4)
    run = made.run.model_copy(update={"worker_update_interval": interval, "max_staleness": max_staleness})
    return replace(made, plan=made.plan.model_copy(update={"run": run, "shape": "STAR"}))


def group(rank: int, folder: Path, generation: int = 0) -> GroupConfig:
    return GroupConfig(
        rank=rank, world_size=3, listen=() if rank else ("127.0.0.1",), port=0, peers={0: "127.0.0.1"} if rank else {},
        timeout_s=20.0, run_id="edp", secret=b"secret", endpoint_file=folder / "endpoint.json", generation=generation,
        after=-1 if rank else None,
    )  # fmt: skip


class Star:
    """A server with its mailbox, and whoever plays its workers."""

    def __init__(
        self, folder: Path, stack: ExitStack, total: int = 1000, generation: int = 0, rate=lambda step: LR, **settings
    ):
        self.folder, self.stack, self.settings = folder, stack, settings
        self.mailbox = Mailbox(group(0, folder, generation), MOST_BYTES)
        stack.callback(self.mailbox.close, 1.0)
        alone = solo(context(0, **settings))
        self.server = Server(alone, Centre(alone, TinyLM(5)), self.mailbox, BATCH, rate)
        self.server.leases = Leases(total)

    @property
    def length(self) -> int:
        return self.server.centre.flat.length

    def turn_until(self, done) -> None:
        deadline = Deadline(WAIT_S)
        while not done():
            assert not deadline.expired, "nothing happens"
            self.server.turn(0.01)

    def by_hand(self, rank: int, incarnation: int) -> Hand:
        return Hand(self, rank, incarnation)

    def worker(self, rank: int, stop=lambda: False, join_s: float = WAIT_S, samples: int = 4) -> Worker:
        caller = Caller(group(rank, self.folder), MOST_BYTES)
        self.stack.callback(caller.close, 1.0)
        entered = []
        alone = solo(context(rank, **self.settings))
        alone = replace(alone, me=alone.me.model_copy(update={"samples": samples}))
        made = Worker(alone, TinyLM(40 + rank), caller, stop, entered.append, join_s=join_s)
        made.entered = entered
        return made


class Hand:
    """A worker that pushes what it is told to."""

    def __init__(self, star: Star, rank: int, incarnation: int):
        self.star, self.rank = star, rank
        self.caller = Caller(group(rank, star.folder), MOST_BYTES, incarnation)
        star.stack.callback(self.caller.close, 1.0)
        self.leases: list = []
        self.join()

    def join(self) -> None:
        self.caller.dial(Deadline(WAIT_S), lambda: False, {"samples": 4})
        self.leases.clear()
        self.welcome = self.hear(0)

    def push(self, number: int, gradient: torch.Tensor | float = 1.0, send_only: bool = False, **words):
        codec = codec_of(self.star.settings.get("wire", "fp32"))
        values = torch.full((self.star.length,), gradient) if isinstance(gradient, float) else gradient
        frame = torch.empty(codec.frame_bytes(len(values)), dtype=torch.uint8)
        codec.encode(values, frame)
        lease = words.pop("lease", None) or (self.leases.pop(0).number if self.leases else 0)
        said = {"lease": lease, "base": 0, "generation": 0, "tokens": 4, "loss": 8.0, "pull": False, **words}
        self.caller.send(Letter(Op.PUSH, number, said, frame))
        return None if send_only else self.hear(number)

    def hear(self, number: int) -> Letter:
        got = []

        def heard() -> bool:
            letter = self.caller.receive(0.0)
            if letter is not None:
                got.append(letter)
                if letter.op in (Op.ANSWER, Op.LEASES):
                    self.leases += leases_in(letter)
            return any(one.op == Op.DONE or (one.op == Op.ANSWER and one.number == number) for one in got)

        self.star.turn_until(heard)
        return got[-1]


def started(star: Star, rank: int, **settings) -> Worker:
    worker = star.worker(rank, **settings)
    meanwhile(star, worker.join)
    return worker


def steps(star: Star, worker: Worker, count: int) -> list:
    def work():
        results = []
        for _ in range(count):
            lease = worker.lease()
            x, y = samples_of(lease.start, lease.count)
            results.append(worker.train_step([(x, y)], lease))
        worker._settle()
        return results

    return meanwhile(star, work)


def meanwhile(star: Star, call):
    """Run a call of a worker in a thread while the server turns here."""
    result = []

    def run():
        try:
            result.append(call())
        except Exception as error:  # noqa: BLE001 - handed to the test
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    star.turn_until(lambda: not thread.is_alive())
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]
