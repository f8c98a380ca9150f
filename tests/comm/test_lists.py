"""gather, scatter, all_gather, all_to_all, coalesced and object collectives against gloo, in the same processes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from tests.comm.pool import Pool
from tests.comm.test_reductions import numbers

DTYPES = ("float32", "bfloat16", "int64", "bool", "complex64", "uint8", "float64")
# 600,011 float32 are more than two frames of the largest size here.
SIZES = (0, 1, 7, 1001, 600_011)


def matrix(size: int, dtype: str, seed: int) -> torch.Tensor:
    """Numbers whose memory is not contiguous, unless there are next to none."""
    return numbers(3 * size, dtype, seed).view(size, 3).t()[1]


def check_parts(fabric: Any, dtype: str) -> None:
    rank, n, gloo = fabric.config.rank, fabric.config.world_size, dist.new_group(backend="gloo")
    kind = getattr(torch, dtype)
    for size in SIZES:
        own = numbers(size, dtype, rank)
        for mine in (own, matrix(size, dtype, rank)):
            answers = []
            for group in (None, gloo):
                tensor = mine if group is None else mine.contiguous()
                gathered = [torch.zeros(size, dtype=kind) for _ in range(n)]
                dist.all_gather(gathered, tensor, group=group)
                answers.append(torch.cat(gathered))
            assert torch.equal(*answers)
            place = torch.zeros(n, 3, size, dtype=kind)[:, 1]  # nor is this
            dist.all_gather(list(place), mine)
            assert torch.equal(place.reshape(-1), answers[0])
            told = mine.clone() if rank == n - 1 else torch.zeros(size, dtype=kind)
            dist.broadcast(told, n - 1)
            assert torch.equal(told, answers[0][(n - 1) * size :])
        expected = torch.cat([numbers(size, dtype, r) for r in range(n)])
        for root in range(n):
            places = [torch.zeros(size, dtype=kind) for _ in range(n)] if rank == root else None
            dist.gather(own, places, root)
            if places is not None:
                assert torch.equal(torch.cat(places), expected)
            given = [numbers(size, dtype, 10 * root + r) for r in range(n)] if rank == root else None
            got = torch.zeros(size, dtype=kind)
            dist.scatter(got, given, root)
            assert torch.equal(got, numbers(size, dtype, 10 * root + rank))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_scatter_all_gather_broadcast(pool: Pool, n: int, dtype: str) -> None:
    pool.run(n, check_parts, dtype)


def check_all_to_all(fabric: Any, dtype: str) -> None:
    rank, n, gloo = fabric.config.rank, fabric.config.world_size, dist.new_group(backend="gloo")
    kind = getattr(torch, dtype)
    for rows in (0, 1, 5, 40_001):
        even = numbers(rows * n * 3, dtype, rank).view(rows * n, 3)
        answers = []
        for group in (None, gloo):
            output = torch.zeros_like(even)
            dist.all_to_all_single(output, even, group=group)
            answers.append(output)
        assert torch.equal(*answers)
        # Rank r sends r + s rows to rank s, and none at all to the rank after it.
        sizes = [[(r + s) * (rows % 7) if (r + 1) % n != s else 0 for s in range(n)] for r in range(n)]
        out, into = sizes[rank], [sizes[r][rank] for r in range(n)]
        uneven = numbers(sum(out) * 3, dtype, rank).view(-1, 3)
        answers = []
        for group in (None, gloo):
            output = torch.zeros(sum(into), 3, dtype=kind)
            dist.all_to_all_single(output, uneven, into, out, group=group)
            answers.append(output)
        assert torch.equal(*answers)
        places = [torch.zeros(count, 3, dtype=kind) for count in into]
        dist.all_to_all(places, list(uneven.split(out)))
        assert torch.equal(torch.cat(places), answers[0])
    with pytest.raises(ValueError, match="do not divide evenly among"):
        dist.all_to_all_single(torch.empty(n + 1), torch.empty(n + 1))
    with pytest.raises(ValueError, match="do not cut"):
        dist.all_to_all_single(torch.empty(n), torch.empty(n), [1] * n, [2] * n)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_all_to_all(pool: Pool, n: int, dtype: str) -> None:
    pool.run(n, check_all_to_all, dtype)


def check_coalesced(fabric: Any) -> None:
    warnings.simplefilter("ignore")
    rank, n, world = fabric.config.rank, fabric.config.world_size, dist.group.WORLD
    sizes = (1, 0, 1001, 70_000)

    def mine(scale: int = 1, of: int = rank) -> list[torch.Tensor]:
        return [numbers(scale * size, "float32", 100 * of + size) for size in sizes]

    sums = [torch.stack([mine(of=r)[i] for r in range(n)]).sum(0) for i in range(len(sizes))]
    gathered = [torch.cat([mine(of=r)[i] for r in range(n)]) for i in range(len(sizes))]

    together = mine()
    dist.all_reduce_coalesced(together)
    torch.testing.assert_close(together, sums)
    together = mine()
    dist.all_reduce_coalesced(together, async_op=True).wait()
    torch.testing.assert_close(together, sums)

    lists = [[torch.empty(size) for size in sizes] for _ in range(n)]
    dist.all_gather_coalesced(lists, mine())
    assert all(torch.equal(lists[r][i], mine(of=r)[i]) for r in range(n) for i in range(len(sizes)))

    for device in (None, torch.device("cpu")):  # the two ways c10d coalesces: a fast path, and start ... end
        together = mine()
        with dist.distributed_c10d._coalescing_manager(world, device, async_ops=True) as manager:
            for tensor in together:
                dist.all_reduce(tensor, async_op=device is not None)
        manager.wait()
        torch.testing.assert_close(together, sums)
        together = mine()
        with dist.distributed_c10d._coalescing_manager(world, device):
            for tensor in together:
                dist.all_reduce(tensor)
        torch.testing.assert_close(together, sums)
        outs = [torch.empty(n * size) for size in sizes]
        with dist.distributed_c10d._coalescing_manager(world, device):
            for out, tensor in zip(outs, mine(), strict=True):
                dist.all_gather_single(out, tensor)
        assert all(torch.equal(*pair) for pair in zip(outs, gathered, strict=True))
        outs, wholes = [torch.empty(size) for size in sizes], mine(n)
        with dist.distributed_c10d._coalescing_manager(world, device):
            for out, whole in zip(outs, wholes, strict=True):
                dist.reduce_scatter_single(out, whole)
        exact = [
            torch.stack([mine(n, r)[i] for r in range(n)]).sum(0).chunk(n) if size else ()
            for i, size in enumerate(sizes)
        ]
        for out, pieces in zip(outs, exact, strict=True):
            torch.testing.assert_close(out, pieces[rank] if pieces else torch.empty(0))
    # What DTensor and the compiler call.
    for got, expected in zip(functional.all_reduce_coalesced(mine(), "sum", world), sums, strict=True):
        torch.testing.assert_close(got + 0, expected)
    for got, expected in zip(functional.all_gather_into_tensor_coalesced(mine(), world), gathered, strict=True):
        assert torch.equal(got + 0, expected)
    wholes = [whole for whole in mine(n) if len(whole)]
    scattered = functional.reduce_scatter_tensor_coalesced(wholes, "sum", [0] * len(wholes), world)
    for got, pieces in zip(scattered, [pieces for pieces in exact if pieces], strict=True):
        torch.testing.assert_close(got + 0, pieces[rank])


@pytest.mark.parametrize("n", [2, 3])
def test_coalesced(pool: Pool, n: int) -> None:
    pool.run(n, check_coalesced)


def check_objects(fabric: Any) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    thing = {"rank": rank, "text": "x" * (1000 * rank), "tensor": torch.full((3,), rank)}
    places: list[Any] = [None] * n
    dist.all_gather_object(places, thing)
    assert [(place["rank"], len(place["text"])) for place in places] == [(r, 1000 * r) for r in range(n)]
    told = [thing, rank] if rank == n - 1 else [None, None]
    dist.broadcast_object_list(told, src=n - 1)
    assert told[0]["rank"] == told[1] == n - 1
    gathered: list[Any] | None = [None] * n if rank == 0 else None
    dist.gather_object(thing, gathered, dst=0)
    if gathered is not None:
        assert [int(each["tensor"][0]) for each in gathered] == list(range(n))
    got: list[Any] = [None]
    dist.scatter_object_list(got, [("for", r) for r in range(n)] if rank == 0 else None, src=0)
    assert got == [("for", rank)]
    if n == 1:
        return
    if rank == 0:
        dist.send_object_list([1, "two", thing], dst=1)
    elif rank == 1:
        received: list[Any] = [None] * 3
        assert dist.recv_object_list(received, src=0) == 0
        assert received[:2] == [1, "two"]
        assert received[2]["rank"] == 0
    dist.barrier()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_object_collectives(pool: Pool, n: int) -> None:
    pool.run(n, check_objects)
