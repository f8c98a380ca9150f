"""Every operation, dtype and group size against gloo's answer, in the same processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.comm.pool import Pool

SIZES = (1, 2, 7, 1000, 100_003)
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int8", "uint8", "int32", "int64")
NARROW = ("float16", "bfloat16")


def numbers(size: int, dtype: str, seed: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.randn(size, generator=made, dtype=torch.float32).to(kind)
    return torch.randint(0, 4, (size,), generator=made).to(kind)


def same(mine: torch.Tensor, theirs: torch.Tensor, dtype: str) -> None:
    if getattr(torch, dtype).is_floating_point:
        tolerance = {"float16": 2e-2, "bfloat16": 1e-1}.get(dtype, 1e-5)
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    else:
        assert torch.equal(mine, theirs)


def check_all_reduce(fabric: Any, dtype: str, op: str) -> None:
    rank, gloo = fabric.config.rank, dist.new_group(backend="gloo")
    for size in SIZES:
        mine = numbers(size, dtype, rank)
        theirs = mine.clone()
        dist.all_reduce(mine, getattr(dist.ReduceOp, op))
        dist.all_reduce(theirs, getattr(dist.ReduceOp, op), group=gloo)
        same(mine, theirs, dtype)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_all_reduce_gives_what_gloo_gives(pool: Pool, n: int, dtype: str) -> None:
    for op in ("SUM", "MIN", "MAX", "PRODUCT"):
        pool.run(n, check_all_reduce, dtype, op)


def check_average(fabric: Any, dtype: str) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    for size in SIZES:
        mine = numbers(size, dtype, rank)
        exact = sum(numbers(size, dtype, r).double() for r in range(n)) / n
        dist.all_reduce(mine, dist.ReduceOp.AVG)
        # One rounding of the exact mean, except that float32 and float64 round at every addition.
        unit, smallest = torch.finfo(mine.dtype).eps, (0.1 if dtype in NARROW else 8.0)
        assert ((mine.double() - exact).abs() <= unit * exact.abs().clamp(min=smallest)).all()
    pieces = numbers(12 * n, dtype, rank)
    out = torch.empty(12, dtype=pieces.dtype)
    dist.reduce_scatter_single(out, pieces, dist.ReduceOp.AVG)
    exact = sum(numbers(12 * n, dtype, r).double() for r in range(n))[rank * 12 : rank * 12 + 12] / n
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_an_average_rounds_narrow_numbers_once(pool: Pool, n: int) -> None:
    for dtype in FLOATS:
        pool.run(n, check_average, dtype)


def check_narrow_sum_does_not_overflow(fabric: Any) -> None:
    big = torch.full((1000,), 40_000.0, dtype=torch.float16)  # the sum, 160,000, is no float16
    dist.all_reduce(big, dist.ReduceOp.AVG)
    assert (big == 40_000).all()


def test_the_mean_of_large_halves_does_not_overflow(pool: Pool) -> None:
    pool.run(4, check_narrow_sum_does_not_overflow)


def check_scatter_gather(fabric: Any, dtype: str) -> None:
    rank, n, gloo = fabric.config.rank, fabric.config.world_size, dist.new_group(backend="gloo")
    for size in SIZES:
        whole = numbers(size * n, dtype, rank)
        before = whole.clone()
        outs = [torch.empty(size, dtype=whole.dtype) for _ in range(2)]
        for out, group in zip(outs, (None, gloo), strict=True):
            dist.reduce_scatter_single(out, whole, group=group)
        same(*outs, dtype)
        assert torch.equal(whole, before), "the input of a reduce_scatter must stay"
        listed = torch.empty(size, dtype=whole.dtype)
        dist.reduce_scatter(listed, list(whole.chunk(n)))
        assert torch.equal(listed, outs[0])

        wholes = [torch.empty(size * n, dtype=whole.dtype) for _ in range(2)]
        for gathered, group in zip(wholes, (None, gloo), strict=True):
            dist.all_gather_single(gathered, outs[0], group=group)
        assert torch.equal(*wholes)
        parts = [torch.empty(size, dtype=whole.dtype) for _ in range(n)]
        dist.all_gather(parts, outs[0])
        assert torch.equal(torch.cat(parts), wholes[0])
        in_place = wholes[0].clone()
        dist.all_gather_single(in_place, in_place[rank * size : (rank + 1) * size])
        assert torch.equal(in_place, wholes[0])

        for root in range(n):
            told = numbers(size, dtype, rank)
            dist.broadcast(told, root)
            assert torch.equal(told, numbers(size, dtype, root))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_reduce_scatter_all_gather_broadcast(pool: Pool, n: int, dtype: str) -> None:
    pool.run(n, check_scatter_gather, dtype)


def check_the_rest(fabric: Any) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    dist.barrier()
    flags = torch.tensor([rank == 1, True, False])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    assert flags.tolist() == [True, True, False]
    turned = numbers(12, "float32", rank).view(3, 4).t()  # not contiguous
    dist.all_reduce(turned)
    torch.testing.assert_close(turned, sum(numbers(12, "float32", r).view(3, 4).t() for r in range(n)))
    empty = torch.empty(0)
    dist.all_reduce(empty)
    scalar = torch.tensor(float(rank))
    dist.all_reduce(scalar)
    assert scalar.item() == n * (n - 1) / 2

    objects: list[Any] = [None] * n
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": r} for r in range(n)]

    swapped = torch.empty(n, 2)
    dist.all_to_all_single(swapped, torch.arange(2.0 * n).view(n, 2) + 100 * rank)
    assert swapped[:, 0].tolist() == [100 * r + 2 * rank for r in range(n)]
    gathered = [torch.empty(3) for _ in range(n)] if rank == 1 else None
    dist.gather(torch.full((3,), float(rank)), gathered, dst=1)
    if gathered is not None:
        assert torch.stack(gathered)[:, 0].tolist() == list(range(n))
    piece = torch.empty(2)
    dist.scatter(piece, [torch.full((2,), float(r)) for r in range(n)] if rank == 0 else None, src=0)
    assert piece.tolist() == [rank, rank]
    reduced = torch.ones(5)
    dist.reduce(reduced, dst=n - 1)
    assert reduced[0].item() == (n if rank == n - 1 else 1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_rest_of_the_api(pool: Pool, n: int) -> None:
    pool.run(n, check_the_rest) if n > 1 else pool.run(1, check_alone)


def check_alone(fabric: Any) -> None:
    x = torch.ones(3)
    dist.all_reduce(x)
    gathered = torch.empty(3)
    dist.all_gather_single(gathered, x)
    dist.reduce_scatter_single(gathered, x)
    dist.broadcast(x, 0)
    dist.barrier()
    assert gathered.tolist() == x.tolist() == [1, 1, 1]


def check_refusals(fabric: Any) -> list[str]:
    texts = []
    for call in (
        lambda: dist.all_reduce(torch.ones(2, dtype=torch.int32), dist.ReduceOp.AVG),
        lambda: dist.all_reduce(torch.ones(2, device="meta")),
        lambda: dist.reduce_scatter_single(torch.ones(2), torch.ones(5)),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        texts.append(str(caught.value))
    dist.barrier()  # a refused argument leaves the group in order
    return texts


def test_arguments_that_cannot_work_are_refused_at_once(pool: Pool) -> None:
    average, device, size = pool.run(2, check_refusals)[0]
    assert "average of torch.int32" in average
    assert "tensors on cpu, cuda, mps, not on meta" in device
    assert size == "reduce_scatter: the whole has 5 numbers, 2 times 2 are needed"
