"""Warm processes that can be stages: importing torch costs seconds. Each dies with the process that made it.

`with pool.serving(folder, cuts) as engine:` is a model split over real processes; the test's own is the head.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from smolcluster.comm.config import GroupConfig
from smolcluster.infer.engine import Engine
from smolcluster.infer.layout import Layout, Place
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.plan.types import NodeConfig, ServePlan
from smolcluster.spec.shape import read_shape
from tests.asked import AskedThroughPipe

START_S = 90.0


def settings(rank: int, world_size: int, folder: str, **changes: Any) -> GroupConfig:
    fields: dict[str, Any] = {
        "rank": rank,
        "world_size": world_size,
        "listen": ("127.0.0.1",),
        "port": 0,
        "peers": dict.fromkeys(range(world_size), "127.0.0.1"),
        "buffer_bytes": 1 << 18,
        "timeout_s": 20.0,
        "join_s": START_S,
        "run_id": "serving",
        "digest": "d" * 64,
        "secret": b"a secret of the tests",
        "endpoint_file": Path(folder) / "endpoint.json",
    }
    return GroupConfig(**{**fields, **changes})


def loader(folder: Path):
    def load(part: LayerRange, precision: Any) -> Any:
        return load_stage(folder, part, precision)

    return load


def be_worker(pipe: Connection, config: GroupConfig, folder: Path) -> None:
    from smolcluster.infer.worker import Worker

    Worker(config, loader(folder)).run()


def be_rank(pipe: Connection, config: NodeConfig, plan: ServePlan, rank: int) -> None:
    """Until something comes through the pipe."""
    from smolcluster.infer.rank import run_stage

    run_stage(config, plan, plan.ranks[rank], AskedThroughPipe(pipe))


def be_tablet(pipe: Connection, config: NodeConfig, plan: ServePlan, rank: int) -> None:
    """The same of the rank that hands over to a tablet."""
    from smolcluster.tablet.rank import run_tablet

    run_tablet(config, plan, plan.ranks[rank], AskedThroughPipe(pipe))


def work(pipe: Connection) -> None:
    from smolcluster.runtime.process import die_with_parent

    die_with_parent()
    torch.set_num_threads(1)
    while True:
        try:
            job = pipe.recv()
            if job == "stop":  # meant for one that has ended
                continue
            be, arguments = job
        except EOFError:
            return
        try:
            be(pipe, *arguments)
            pipe.send("")
        except Exception as error:  # noqa: BLE001  the test sees it
            pipe.send(f"{type(error).__name__}: {error}")


class StagePool:
    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection]] = []

    def ready(self, count: int) -> None:
        for number in range(count):
            if number < len(self._workers) and self._workers[number][0].is_alive():
                continue
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            if number < len(self._workers):
                self._workers[number][1].close()
                self._workers[number] = (process, ours)
            else:
                self._workers.append((process, ours))

    def begin(self, rank: int, config: GroupConfig, folder: Path) -> None:
        self.give(rank, be_worker, config, folder)

    def give(self, number: int, be: Any, *arguments: Any) -> None:
        """Have process `number`, from 1, do that."""
        self.ready(number)
        self._workers[number - 1][1].send((be, arguments))

    def ask_to_stop(self, number: int) -> None:
        self._workers[number - 1][1].send("stop")

    def freeze(self, rank: int) -> None:
        os.kill(self.pid(rank), signal.SIGSTOP)

    def pid(self, rank: int) -> int:
        return self._workers[rank - 1][0].pid

    def kill(self, rank: int) -> None:
        process = self._workers[rank - 1][0]
        process.kill()
        process.join(20)

    def ended(self, rank: int, within_s: float = 30.0) -> str | None:
        """What the stage's run ended with; None if its process died."""
        pipe = self._workers[rank - 1][1]
        try:
            assert pipe.poll(within_s), f"rank {rank} did not end"
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            return None

    @contextmanager
    def serving(
        self,
        folder: Path,
        cuts: Sequence[tuple[int, int]],
        precision: str = "fp32",
        comm: Any = None,
        begin: bool = True,
        head_load: Any = None,
        **options: Any,
    ) -> Iterator[Engine]:
        """`begin` False leaves starting to the caller; `head_load` is another way to read the head's layers."""
        shape = read_shape(folder)
        places = tuple(Place(rank=rank, start=start, stop=stop) for rank, (start, stop) in enumerate(cuts))
        layout = Layout(layers=shape.layers, precision=precision, places=places)
        with tempfile.TemporaryDirectory() as meeting:
            world = len(cuts)
            self.config_of = lambda rank: settings(rank, world, meeting, **(comm or {}))
            self.folder = folder
            for rank in range(1, world):
                self.begin(rank, self.config_of(rank), folder)
            defaults: dict[str, Any] = {"context": shape.max_positions}
            engine = Engine(self.config_of(0), layout, head_load or loader(folder), **{**defaults, **options})
            try:
                if begin:
                    engine.start(START_S)
                yield engine
            finally:
                engine.close()
                self.endings = [self.ended(rank) for rank in range(1, world)]

    def close(self) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.kill()
        for process, _ in self._workers:
            process.join()
