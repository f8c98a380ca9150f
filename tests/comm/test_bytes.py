"""Bytes on the wire are the ring's optimum, exactly, and the headers on top are next to nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm.frame import HEADER_BYTES
from tests.comm.pool import Pool

NUMBERS = 12 * 32_768  # divisible by 2, 3, 4; 1.5 MB
P = NUMBERS * 4


def traffic(fabric: Any, name: str, dtype: str) -> int:
    """Bytes this rank sent for one operation on a buffer of P bytes, the ring's headers included."""
    n, kind = fabric.config.world_size, getattr(torch, dtype)
    count = P // kind.itemsize
    whole, part = torch.ones(count, dtype=kind), torch.ones(count // n, dtype=kind)
    dist.all_reduce(whole)  # so that links which open late are open
    ring = [link for link in fabric._mesh.links() if link.channel != "control"]
    before = sum(link.bytes_out for link in ring)
    match name:
        case "all_reduce":
            dist.all_reduce(whole)
        case "reduce_scatter":
            dist.reduce_scatter_single(part, whole)
        case "all_gather":
            dist.all_gather_single(whole, part)
        case "broadcast":
            dist.broadcast(whole, 0)
    return sum(link.bytes_out for link in ring) - before


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_per_rank_are_the_optimum(pool: Pool, n: int, dtype: str) -> None:
    share = P * (n - 1) // n
    for name, payload in (("all_reduce", 2 * share), ("reduce_scatter", share), ("all_gather", share)):
        for sent in pool.run(n, traffic, name, dtype):
            headers = sent - payload
            assert headers >= 0
            assert headers % HEADER_BYTES == 0
            assert headers < payload / 1000
    sent = pool.run(n, traffic, "broadcast", dtype)
    assert sent[-1] == 0  # the end of the chain
    assert all(0 <= one - P < P / 1000 for one in sent[:-1])


def counted(fabric: Any) -> tuple[int, int, tuple[Any, ...]]:
    before = fabric.counters()
    dist.all_reduce(torch.ones(NUMBERS))
    after = fabric.counters()
    return after.bytes_out - before.bytes_out, after.bytes_in - before.bytes_in, fabric.links()


def test_the_fabric_counts_them(pool: Pool) -> None:
    for out, inward, links in pool.run(2, counted):
        assert P <= out < P * 1.01
        assert P <= inward < P * 1.01
        assert [link.peer for link in links] in ([0], [1])
        assert links[0].rtt_ms >= 0
        assert links[0].buffered >= 0
