"""A warm pool of worker processes: importing torch costs seconds, so every test borrows the same few.

`pool.run(n, function, *args)` calls `function(fabric, *args)` in n processes that have just joined a group of n; with
`bare=True` it calls `function((rank, n), *args)` and they have not. Of the other named arguments, `prepare` is called
with a rank's config before it joins; the rest go into the config.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What one worker's call gave: a value, or the error's class name and text."""

    value: Any
    error: str
    text: str


class Pool:
    def __init__(self, method: str = "spawn") -> None:
        """`forkserver` makes workers in milliseconds, where the system has fork; ours are spawned, so most tests do."""
        self._context = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(["torch.distributed", "smolcluster.comm", "tests.comm.pool"])
        self._workers: list[tuple[Any, Connection]] = []

    def start(self, count: int) -> None:
        alive = []
        for process, pipe in self._workers:
            if process.is_alive():
                alive.append((process, pipe))
            else:
                process.join()
                pipe.close()
        self._workers = alive
        while len(self._workers) < count:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def run(self, n: int, function: Callable[..., Any], *args: Any, **config: Any) -> list[Any]:
        """The values of all ranks, in order. AssertionError with the workers' tracebacks if any failed."""
        outcomes = self.outcomes(n, function, *args, **config)
        failed = [outcome.text or outcome.error for outcome in outcomes if outcome.error]
        assert not failed, "\n".join(failed)
        return [outcome.value for outcome in outcomes]

    def outcomes(self, n: int, function: Callable[..., Any], *args: Any, **config: Any) -> list[Outcome]:
        """What happened at each rank. A process that died gives the error "died"."""
        with self.begun(n, function, *args, **config):
            return [self.outcome(rank) for rank in range(n)]

    @contextmanager
    def begun(self, n: int, function: Callable[..., Any], *args: Any, **config: Any) -> Iterator[None]:
        """Start a call everywhere; the body collects every `outcome`."""
        self.start(n)
        with tempfile.TemporaryDirectory() as folder:
            for rank in range(n):
                self._workers[rank][1].send((rank, n, Path(folder) / "endpoint.json", function, args, config))
            yield

    def outcome(self, rank: int) -> Outcome:
        """Wait for the call's end at one rank."""
        pipe = self._workers[rank][1]
        try:
            assert pipe.poll(120), f"rank {rank} did not answer"
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            self._workers[rank][0].join(10)
            return Outcome(None, "died", "")

    def pid(self, rank: int) -> int:
        return self._workers[rank][0].pid

    def close(self) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.kill()  # nothing to lose, and a tidy exit with torch in it takes its time
        for process, _ in self._workers:
            process.join()


def settings(rank: int, n: int, **changes: Any) -> Any:
    """A GroupConfig for loopback."""
    from smolcluster.comm import GroupConfig

    fields: dict[str, Any] = {
        "rank": rank,
        "world_size": n,
        "listen": ("127.0.0.1",),
        "port": 0,
        "peers": dict.fromkeys(range(n), "127.0.0.1"),
        "buffer_bytes": 256 * 1024,
        "timeout_s": 20.0,
        "join_s": 90.0,  # a new worker imports torch first
        "run_id": "test",
        "digest": "d" * 64,
        "secret": b"s" * 32,
    }
    return GroupConfig(**{**fields, **changes})


def _serve(pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    from smolcluster.comm import open_fabric

    while True:
        try:
            rank, n, endpoint_file, function, args, config = pipe.recv()
        except EOFError:
            return
        try:
            own = config.pop("per_rank", {}).get(rank, {})
            if config.pop("bare", False):
                value = function((rank, n), *args)
            else:
                prepare = config.pop("prepare", lambda made: made)
                made = prepare(settings(rank, n, **{"endpoint_file": endpoint_file, **config, **own}))
                with open_fabric(made) as fabric:
                    value = function(fabric, *args)
            outcome = Outcome(value, "", "")
        except Exception as error:  # noqa: BLE001 - handed to the test
            outcome = Outcome(str(error), type(error).__name__, f"rank {rank}:\n{traceback.format_exc()}")
            if dist.is_initialized():  # a bare function failed: the next one begins anew
                dist.destroy_process_group()
        pipe.send(outcome)
