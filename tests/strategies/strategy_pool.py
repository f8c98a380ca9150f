"""Processes that have imported torch already, and take jobs: importing it costs seconds, a job milliseconds.

A job is a function of a module that children can import: `job(rank, world_size, *arguments)`, called with the default
process group open. Its results come back in rank order. A job that fails in one rank fails the test with its traceback.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

DEADLINE_S = 60.0


def open_gloo(rank: int, world_size: int, folder: Path) -> Callable[[], None]:
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=world_size,
        timeout=timedelta(seconds=DEADLINE_S),
    )  # fmt: skip
    return dist.destroy_process_group


def open_smol(rank: int, world_size: int, folder: Path) -> Callable[[], None]:
    from smolcluster.comm import GroupConfig, open_fabric

    fabric = open_fabric(
        GroupConfig(
            rank=rank,
            world_size=world_size,
            listen=("127.0.0.1",),
            port=0,
            peers={peer: "127.0.0.1" for peer in range(world_size) if peer != rank},
            buffer_bytes=1 << 20,
            timeout_s=DEADLINE_S,
            secret=b"a secret of the tests",
            endpoint_file=folder / "endpoint.json",
        )
    )
    FABRICS[rank] = fabric
    return fabric.close


# The fabric of the running job, for those that count its bytes.
FABRICS: dict[int, Any] = {}
OPENERS = {"gloo": open_gloo, "smol": open_smol}


def serve(rank: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is None:
            return
        transport, world_size, folder, job, arguments = task
        try:
            close = OPENERS[transport](rank, world_size, folder)
            try:
                outcome = (True, job(rank, world_size, *arguments))
            finally:
                close()
        except Exception:  # noqa: BLE001  the test process reports it, whatever it is
            outcome = (False, traceback.format_exc())
        pipe.send(outcome)


class Pool:
    """`size` idle processes; `run` uses the first N of them."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, transport: str, world_size: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
        outcomes = self.outcomes(transport, world_size, job, *arguments)
        failures = [f"rank {rank}:\n{text}" for rank, (good, text) in enumerate(outcomes) if not good]
        if failures:
            raise AssertionError("\n".join(failures))
        return [value for _, value in outcomes]

    def outcomes(self, transport: str, world_size: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Of each rank whether its job ended well, and the value or the traceback; (False, "died") if it did."""
        with tempfile.TemporaryDirectory() as folder:
            for pipe in self._pipes[:world_size]:
                pipe.send((transport, world_size, Path(folder), job, arguments))
            return [self._answer(rank) for rank in range(world_size)]

    def _answer(self, rank: int) -> tuple[bool, Any]:
        if not self._pipes[rank].poll(2 * DEADLINE_S):
            raise AssertionError(f"rank {rank} did not answer in {2 * DEADLINE_S} s")
        try:
            answer: tuple[bool, Any] = self._pipes[rank].recv()
        except (EOFError, ConnectionResetError):
            return False, "died"
        return answer

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # the child sees the end of file and leaves
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
