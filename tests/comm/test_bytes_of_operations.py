"""Bytes that each rank sends for each operation besides the ring's three: the optimum, exactly, and a few headers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm.frame import HEADER_BYTES
from tests.comm.pool import Pool

NUMBERS = 144 * 2730  # divisible by 2, 3, 4 and their squares; 1.5 MB of float32
P = NUMBERS * 4
ROOT = 1


def operation(name: str, rank: int, n: int, kind: torch.dtype) -> None:
    count = P // kind.itemsize
    whole, parts = torch.ones(count, dtype=kind), [torch.ones(count // n, dtype=kind) for _ in range(n)]
    match name:
        case "reduce":
            dist.reduce(whole, ROOT)
        case "gather":
            dist.gather(parts[0], parts if rank == ROOT else None, ROOT)
        case "scatter":
            dist.scatter(parts[0], parts if rank == ROOT else None, ROOT)
        case "all_to_all":
            dist.all_to_all(parts, [part.clone() for part in parts])
        case "uneven all_to_all":  # everything to rank 0
            out = [count if r == 0 else 0 for r in range(n)]
            into = [count if rank == 0 else 0 for _ in range(n)]
            dist.all_to_all_single(torch.empty(sum(into), dtype=kind), whole, into, out)
        case "all_gather of a list":
            dist.all_gather(parts, parts[0].clone())
        case "all_reduce_coalesced":
            dist.all_reduce_coalesced(parts)
        case "send to anybody":
            if rank == ROOT:
                dist.send(whole, 0)
            elif rank == 0:
                dist.recv(whole)
        case "barrier":
            dist.barrier()


def payloads(name: str, n: int) -> list[int]:
    """What each rank has to send at least."""
    part = P // n
    match name:
        case "reduce":
            return [0 if r == ROOT else P for r in range(n)]
        case "gather":
            return [0 if r == ROOT else part for r in range(n)]
        case "scatter":
            return [(n - 1) * part if r == ROOT else 0 for r in range(n)]
        case "all_to_all" | "all_gather of a list":
            return [(n - 1) * part] * n
        case "uneven all_to_all":
            return [0 if r == 0 else P for r in range(n)]
        case "all_reduce_coalesced":
            return [2 * (n - 1) * part] * n
        case "send to anybody":
            return [P if r == ROOT else 0 for r in range(n)]
    raise KeyError(name)


def traffic(fabric: Any, name: str, dtype: str) -> int:
    warnings.simplefilter("ignore")
    rank, n, kind = fabric.config.rank, fabric.config.world_size, getattr(torch, dtype)
    operation(name, rank, n, kind)  # so that links which open late are open
    dist.barrier()
    links = [link for link in fabric._mesh.links() if link.channel != "control"]
    before = sum(link.bytes_out for link in links)
    operation(name, rank, n, kind)
    return sum(link.bytes_out for link in links) - before


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    [
        *("reduce", "gather", "scatter", "all_to_all", "uneven all_to_all", "all_gather of a list"),
        *("all_reduce_coalesced", "send to anybody"),
    ],
)
def test_each_rank_sends_what_it_must(pool: Pool, n: int, name: str, dtype: str) -> None:
    for sent, payload in zip(pool.run(n, traffic, name, dtype), payloads(name, n), strict=True):
        headers = sent - payload
        assert headers >= 0
        assert headers % HEADER_BYTES == 0
        assert headers <= max(payload / 1000, 0)


def test_a_barrier_is_a_few_headers(pool: Pool) -> None:
    assert all(sent <= 2 * 3 * (HEADER_BYTES + 1) for sent in pool.run(4, traffic, "barrier", "float32"))
