"""Real processes for a measurement: spawned, joined into one group over smol, ended with it."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIMIT_S = 1800.0
TIMEOUT_S = 120.0


def _serve(
    rank: int, world_size: int, folder: str, pipe: Connection, job: Callable[..., Any], arguments: tuple
) -> None:
    import torch

    from smolcluster.comm import GroupConfig, open_fabric

    torch.set_num_threads(1)
    config = GroupConfig(
        rank=rank,
        world_size=world_size,
        listen=("127.0.0.1",),
        port=0,
        peers={peer: "127.0.0.1" for peer in range(world_size) if peer != rank},
        timeout_s=TIMEOUT_S,
        secret=b"only of this benchmark",
        endpoint_file=Path(folder) / "endpoint.json",
    )
    try:
        with open_fabric(config) as fabric:
            pipe.send((True, job(rank, world_size, fabric, *arguments)))
    except Exception:  # noqa: BLE001  whatever it is, the parent reports it
        pipe.send((False, traceback.format_exc()))


def on_ranks(world_size: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `job(rank, world_size, fabric, *arguments)` gives, in rank order. RuntimeError if one of them fails."""
    context = multiprocessing.get_context("spawn")
    # One thread per rank; gloo must not go looking for an interface by this machine's name.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    pairs, processes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world_size, folder, theirs, job, arguments), daemon=True
            )
            process.start()
            theirs.close()
            pairs.append(ours)
            processes.append(process)
        try:
            answers = [_answer(pipe, rank) for rank, pipe in enumerate(pairs)]
        finally:
            for process in processes:
                process.join(10)
                if process.is_alive():
                    process.kill()
                    process.join()
    return answers


def _answer(pipe: Connection, rank: int) -> Any:
    if not pipe.poll(LIMIT_S):
        raise RuntimeError(f"rank {rank} did not answer within {LIMIT_S:.0f} s")
    try:
        good, value = pipe.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died") from None
    if not good:
        raise RuntimeError(f"rank {rank}:\n{value}")
    return value
