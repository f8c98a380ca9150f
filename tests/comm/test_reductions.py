"""Every reduction, dtype and size against gloo's answer, and `reduce`, in the same processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.comm.pool import Pool
from tests.comm.test_operations import same

OPS = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")
DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128", "complex32"),
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
)
# More than one frame (64 KB at least) and more than one block of a fold (1 MB).
SIZES = (0, 1, 2, 7, 1001, 100_003, 600_011)


def numbers(size: int, dtype: str, seed: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    if kind.is_complex:
        return torch.view_as_complex(torch.randn(size, 2, generator=made)).to(kind)
    if kind.is_floating_point:
        return torch.randn(size, generator=made).to(kind)
    return torch.randint(0, 2 if kind is torch.bool else 100, (size,), generator=made).to(kind)


def outcome(call: Any) -> Any:
    """What it gives, or None if it is refused."""
    try:
        return call()
    except (ValueError, RuntimeError, NotImplementedError):
        return None


def agree(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    if mine.is_complex():
        mine, theirs = torch.view_as_real(mine), torch.view_as_real(theirs)
    same(mine, theirs, str(mine.dtype).removeprefix("torch."))


def all_reduced(tensor: torch.Tensor, op: Any, group: Any) -> torch.Tensor:
    dist.all_reduce(tensor, op, group=group)
    return tensor


def scattered(tensor: torch.Tensor, op: Any, group: Any) -> torch.Tensor:
    n = dist.get_world_size()
    output = torch.empty(tensor.numel() // n, dtype=tensor.dtype)
    dist.reduce_scatter_single(output, tensor[: output.numel() * n], op, group=group)
    return output


def reduced(tensor: torch.Tensor, op: Any, group: Any) -> torch.Tensor:
    root = dist.get_world_size() - 1
    before = tensor.clone()
    dist.reduce(tensor, root, op, group=group)
    if dist.get_rank() == root:
        return tensor
    if group is None:
        assert torch.equal(tensor.view(torch.uint8), before.view(torch.uint8)), "only the root's tensor may change"
    return before


def compare(fabric: Any, op: str) -> list[tuple[str, str]]:
    """What gloo does, smol does; the names of what it does besides."""
    gloo, chosen, besides = dist.new_group(backend="gloo"), getattr(dist.ReduceOp, op), set()
    for dtype in DTYPES:
        for call in (all_reduced, scattered, reduced):
            for size in SIZES if dtype in ("float32", "bfloat16", "int32", "uint8") else (7, 1001):
                mine = numbers(size, dtype, fabric.config.rank)
                theirs = mine.clone()
                expected = outcome(lambda t=theirs, c=call: c(t, chosen, gloo))
                got = outcome(lambda t=mine, c=call: c(t, chosen, None))
                if expected is None:
                    if got is not None:
                        besides.add((call.__name__, dtype))
                    continue
                assert got is not None, f"gloo has {call.__name__} {op} of {dtype}"
                agree(got, expected)
    dist.barrier()  # what was refused left the group in order
    return sorted(besides)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("op", OPS)
def test_every_reduction_that_gloo_has(pool: Pool, n: int, op: str) -> None:
    besides = pool.run(n, compare, op)[0]
    # gloo has no 16-bit integers and no unsigned ones beyond bytes; smol reduces them where torch can.
    assert {dtype for _, dtype in besides} <= {
        *("int16", "uint16", "uint32", "uint64"),
        *(("complex64", "complex128") if op in ("AVG", "PRODUCT") else ()),
        *(("complex32",) if op == "AVG" else ()),
    }


def check_wide_unsigned(fabric: Any) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    for dtype, top in ((torch.uint16, 2**16), (torch.uint32, 2**32)):
        mine = torch.tensor([top // 2 + rank, 1, top - 1], dtype=torch.int64).to(dtype)
        dist.all_reduce(mine)
        exact = [(n * (top // 2) + n * (n - 1) // 2) % top, n, (n * (top - 1)) % top]
        assert mine.to(torch.int64).tolist() == exact


def test_sums_of_unsigned_numbers_wrap_as_they_should(pool: Pool) -> None:
    pool.run(3, check_wide_unsigned)


def check_reduce(fabric: Any, dtype: str) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    for root in range(n):
        for size in SIZES:
            for op in ("SUM", "AVG", "MAX"):
                mine = numbers(2 * size, dtype, rank)[::2] if size % 2 else numbers(size, dtype, rank)
                before = mine.clone()
                work = dist.reduce(mine, root, getattr(dist.ReduceOp, op), async_op=True)
                work.wait()
                if rank != root:
                    assert torch.equal(mine, before)
                    continue
                everybody = torch.stack(
                    [
                        (numbers(2 * size, dtype, r)[::2] if size % 2 else numbers(size, dtype, r)).double()
                        for r in range(n)
                    ]
                )
                exact = {"SUM": everybody.sum(0), "AVG": everybody.mean(0), "MAX": everybody.amax(0)}[op]
                # Narrow numbers are rounded once, the others at every addition.
                smallest = 8.0 if dtype == "float32" else 0.1
                assert (
                    (mine.double() - exact).abs() <= torch.finfo(mine.dtype).eps * exact.abs().clamp(min=smallest)
                ).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_reduce_to_every_root(pool: Pool, n: int, dtype: str) -> None:
    pool.run(n, check_reduce, dtype)


def sparse(rank: int, entries: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(rank)
    indices = torch.randint(0, 5, (2, entries), generator=made)  # some are there twice
    return torch.sparse_coo_tensor(indices, torch.randn(entries, 3, generator=made), (5, 6, 3), check_invariants=True)


def check_sparse_sums(fabric: Any) -> None:
    rank, n, gloo = fabric.config.rank, fabric.config.world_size, dist.new_group(backend="gloo")
    for entries in (0, 7 + rank, 0 if rank else 9):
        mine, theirs = sparse(rank, entries), sparse(rank, entries)
        dist.all_reduce(mine)
        dist.all_reduce(theirs, group=gloo)
        assert mine.is_sparse
        torch.testing.assert_close(mine.to_dense(), theirs.to_dense())
    for refused, op in ((mine, dist.ReduceOp.MAX), (torch.eye(3).to_sparse_csr(), dist.ReduceOp.SUM)):
        with pytest.raises(ValueError, match="sums sparse COO tensors"):
            dist.all_reduce(refused, op)
    torch.manual_seed(1)
    words = torch.nn.Embedding(20, 4, sparse=True)
    model = torch.nn.parallel.DistributedDataParallel(words)
    model(torch.arange(rank, rank + 3)).sum().backward()
    exact = sum(torch.eye(20)[r : r + 3].sum(0) for r in range(n)) / n
    torch.testing.assert_close(words.weight.grad.to_dense(), exact[:, None].expand(20, 4))


@pytest.mark.parametrize("n", [2, 3])
def test_sums_of_sparse_tensors_and_embeddings_in_ddp(pool: Pool, n: int) -> None:
    pool.run(n, check_sparse_sums)
