"""Collectives of random kinds, dtypes, sizes and groups, each compared with what one process computes from the seed.

Every rank draws the same list of operations from the seed. A rank's numbers follow from (seed, operation, rank), so
each rank also knows everybody else's and needs nobody to tell it the right answer. `run(fabric, seed, count)` is the
call for the pool; a wrong answer raises AssertionError that names seed and operation.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

INTEGERS = ("int8", "uint8", "int16", "int32", "int64")
FLOATS = ("float32", "float64", "float16", "bfloat16")
SIZES = (1, 2, 3, 17, 1000, 4096, 20_011)
LARGE = (150_001, 400_000)
TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
REDUCING = ("all_reduce", "reduce", "reduce_scatter", "reduce_scatter_list")
MOVING = (
    "all_gather",
    "all_gather_list",
    "broadcast",
    "gather",
    "scatter",
    "all_to_all",
    "all_to_all_uneven",
    "all_to_all_list",
    "messages",
    "barrier",
)
# How many asynchronous operations may be under way at once.
WINDOW = 6
# How often sub-groups are destroyed and made anew.
REGROUP = 150


@dataclass(frozen=True)
class Step:
    """One operation, the same on every rank. `root` counts in the group."""

    index: int
    kind: str
    group: int
    dtype: str
    size: int
    op: str
    root: int
    wait: bool
    strided: bool


def groupings(n: int, dice: random.Random) -> list[tuple[int, ...]]:
    """The world, a few of its subsets, and the world a second time. Ascending: new_group sorts its ranks."""
    subsets = [chosen for k in range(2, n) for chosen in combinations(range(n), k)]
    return [tuple(range(n)), *dice.sample(subsets, min(3, len(subsets))), tuple(range(n))]


def steps_of(seed: int, count: int, groups: int, sizes: list[int]) -> list[Step]:
    dice = random.Random(seed)
    steps = []
    for index in range(count):
        kind = dice.choice(REDUCING * 2 + MOVING)
        dtype = dice.choice(INTEGERS + FLOATS)
        ops = ["SUM", "SUM", "MIN", "MAX", "PRODUCT"]
        ops += ["AVG"] if dtype in FLOATS else ["BAND", "BOR", "BXOR"]
        group = dice.choice([0, 0, *range(groups)])
        size = dice.choice(LARGE if dice.random() < 0.03 else SIZES)
        root = dice.randrange(sizes[group])
        steps.append(
            Step(
                index,
                kind,
                group,
                dtype,
                size,
                dice.choice(ops),
                root,
                dice.random() < 0.5,
                dice.random() < 0.1,
            )
        )
    return steps


def numbers(seed: int, step: Step, rank: int, size: int) -> Tensor:
    """What rank `rank` (of the world) brings to this operation."""
    made = torch.Generator().manual_seed(seed * 1_000_003 + step.index * 101 + rank)
    dtype = getattr(torch, step.dtype)
    if not dtype.is_floating_point:
        low = 0 if step.dtype == "uint8" else -100
        return torch.randint(low, 100, (size,), generator=made).to(dtype)
    # Near 1, so that a product of eight stays near it and no sum cancels out.
    return (1 + 0.25 * torch.rand(size, generator=made, dtype=torch.float64)).to(dtype)


def reduced(parts: list[Tensor], op: str) -> Tensor:
    """The reduction, in float64 for fractional numbers, wrapping as the dtype does for whole ones."""
    folds: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "SUM": torch.add,
        "AVG": torch.add,
        "PRODUCT": torch.mul,
        "MIN": torch.minimum,
        "MAX": torch.maximum,
        "BAND": torch.bitwise_and,
        "BOR": torch.bitwise_or,
        "BXOR": torch.bitwise_xor,
    }
    wide = [part.double() for part in parts] if parts[0].is_floating_point() else parts
    total = wide[0].clone()
    for part in wide[1:]:
        total = folds[op](total, part)
    return total / len(parts) if op == "AVG" else total


def same(got: Tensor, wanted: Tensor, step: Step, exact: bool) -> None:
    if exact or step.dtype in INTEGERS or step.op in ("MIN", "MAX"):
        assert torch.equal(got, wanted.to(got.dtype)), step
    else:
        tolerance = TOLERANCE[step.dtype]
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance, msg=lambda m: f"{step}: {m}")


class Player:
    """One rank's part in the list of operations."""

    def __init__(self, rank: int, seed: int, groups: list[tuple[int, ...]]) -> None:
        self.rank = rank
        self.seed = seed
        self.groups = groups
        self.handles: list[Any] = []
        self.pending: deque[tuple[list[Any], Callable[[], None], Step]] = deque()

    def open_groups(self) -> None:
        self.handles = [dist.group.WORLD, *(dist.new_group(list(members)) for members in self.groups[1:])]

    def close_groups(self) -> None:
        self.settle(0)
        dist.barrier()  # nobody closes a group that another is still using
        for members, handle in zip(self.groups[1:], self.handles[1:], strict=True):
            if self.rank in members:
                dist.destroy_process_group(handle)

    def settle(self, most: int) -> None:
        """Wait for the oldest operations and check them, until at most `most` are under way."""
        while len(self.pending) > most:
            works, check, step = self.pending.popleft()
            for work in works:
                assert work.wait(), step
            check()

    def play(self, step: Step) -> None:
        members = self.groups[step.group]
        if self.rank not in members:
            return
        works, check = getattr(self, f"_{step.kind}")(step, members, self.handles[step.group])
        works = [work for work in works if work is not None]
        if step.wait and not works:
            check()
        else:
            self.pending.append((works, check, step))
            self.settle(0 if step.wait else WINDOW)

    def _own(self, step: Step, size: int | None = None) -> Tensor:
        made = numbers(self.seed, step, self.rank, size or step.size)
        # Every second number of a larger tensor: not contiguous.
        return made.repeat_interleave(2)[::2] if step.strided else made

    def _all(self, step: Step, members: tuple[int, ...], size: int | None = None) -> list[Tensor]:
        return [numbers(self.seed, step, member, size or step.size) for member in members]

    def _all_reduce(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        mine = self._own(step)
        work = dist.all_reduce(mine, getattr(dist.ReduceOp, step.op), group=group, async_op=not step.wait)
        return [work], lambda: same(mine, reduced(self._all(step, members), step.op), step, False)

    def _reduce(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        mine, root = self._own(step), members[step.root]
        work = dist.reduce(mine, root, getattr(dist.ReduceOp, step.op), group=group, async_op=not step.wait)

        def check() -> None:
            if self.rank == root:
                same(mine, reduced(self._all(step, members), step.op), step, False)
            else:
                same(mine, self._own(step), step, True)

        return [work], check

    def _reduce_scatter(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        n, me = len(members), members.index(self.rank)
        whole = self._own(step, step.size * n)
        mine = torch.empty(step.size, dtype=whole.dtype)
        op = getattr(dist.ReduceOp, step.op)
        work = dist.reduce_scatter_single(mine, whole, op, group=group, async_op=not step.wait)

        def check() -> None:
            parts = [part.view(n, -1)[me] for part in self._all(step, members, step.size * n)]
            same(mine, reduced(parts, step.op), step, False)
            same(whole, self._own(step, step.size * n), step, True)

        return [work], check

    def _reduce_scatter_list(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        n, me = len(members), members.index(self.rank)
        mine = torch.empty(step.size, dtype=getattr(torch, step.dtype))
        pieces = list(self._own(step, step.size * n).view(n, -1) if not step.strided else self._own(step).repeat(n, 1))
        work = dist.reduce_scatter(mine, pieces, getattr(dist.ReduceOp, step.op), group=group, async_op=not step.wait)

        def check() -> None:
            if step.strided:
                parts = self._all(step, members)
            else:
                parts = [part.view(n, -1)[me] for part in self._all(step, members, step.size * n)]
            same(mine, reduced(parts, step.op), step, False)

        return [work], check

    def _all_gather(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        mine = self._own(step)
        got = torch.empty(step.size * len(members), dtype=mine.dtype)
        work = dist.all_gather_single(got, mine, group=group, async_op=not step.wait)
        return [work], lambda: same(got, torch.cat(self._all(step, members)), step, True)

    def _all_gather_list(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        mine = self._own(step)
        got = [torch.empty_like(mine) for _ in members]
        work = dist.all_gather(got, mine, group=group, async_op=not step.wait)
        return [work], lambda: same(torch.cat(got), torch.cat(self._all(step, members)), step, True)

    def _broadcast(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        mine = self._own(step)
        work = dist.broadcast(mine, members[step.root], group=group, async_op=not step.wait)
        return [work], lambda: same(mine, self._all(step, members)[step.root], step, True)

    def _gather(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        mine, root = self._own(step), members[step.root]
        got = [torch.empty_like(mine) for _ in members] if self.rank == root else None
        work = dist.gather(mine, got, root, group=group, async_op=not step.wait)

        def check() -> None:
            if got is not None:
                same(torch.cat(got), torch.cat(self._all(step, members)), step, True)

        return [work], check

    def _scatter(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        n, root = len(members), members[step.root]
        pieces = list(numbers(self.seed, step, root, step.size * n).view(n, -1)) if self.rank == root else None
        mine = torch.empty(step.size, dtype=getattr(torch, step.dtype))
        work = dist.scatter(mine, pieces, root, group=group, async_op=not step.wait)

        def check() -> None:
            wanted = numbers(self.seed, step, root, step.size * n).view(n, -1)[members.index(self.rank)]
            same(mine, wanted, step, True)

        return [work], check

    def _all_to_all(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        n, me = len(members), members.index(self.rank)
        mine = self._own(step, step.size * n)
        got = torch.empty(step.size * n, dtype=mine.dtype)
        work = dist.all_to_all_single(got, mine, group=group, async_op=not step.wait)

        def check() -> None:
            parts = self._all(step, members, step.size * n)
            same(got, torch.cat([part.view(n, -1)[me] for part in parts]), step, True)

        return [work], check

    def _splits(self, step: Step, n: int) -> list[list[int]]:
        """splits[a][b]: how many numbers a sends to b; some send none."""
        dice = random.Random(self.seed * 7919 + step.index)
        return [[dice.choice((0, 1, 5, step.size)) for _ in range(n)] for _ in range(n)]

    def _all_to_all_uneven(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        n, me = len(members), members.index(self.rank)
        splits = self._splits(step, n)
        mine = numbers(self.seed, step, self.rank, sum(splits[me]))
        sizes = [splits[a][me] for a in range(n)]
        got = torch.empty(sum(sizes), dtype=mine.dtype)
        work = dist.all_to_all_single(got, mine, sizes, splits[me], group=group, async_op=not step.wait)

        def check() -> None:
            wanted = [numbers(self.seed, step, m, sum(splits[a])).split(splits[a])[me] for a, m in enumerate(members)]
            same(got, torch.cat(wanted), step, True)

        return [work], check

    def _all_to_all_list(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        n, me = len(members), members.index(self.rank)
        splits = self._splits(step, n)
        mine = list(numbers(self.seed, step, self.rank, sum(splits[me])).split(splits[me]))
        got = [torch.empty(splits[a][me], dtype=mine[0].dtype) for a in range(n)]
        work = dist.all_to_all(got, mine, group=group, async_op=not step.wait)

        def check() -> None:
            for a, member in enumerate(members):
                wanted = numbers(self.seed, step, member, sum(splits[a])).split(splits[a])[me]
                same(got[a], wanted, step, True)

        return [work], check

    def _messages(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        """Everybody sends to the next of the group and receives from the one before, under a tag."""
        n, me = len(members), members.index(self.rank)
        following, previous = members[(me + 1) % n], members[(me - 1) % n]
        mine, got = self._own(step), torch.empty(step.size, dtype=getattr(torch, step.dtype))
        tag = step.index % 5
        works = [dist.isend(mine, following, group, tag), dist.irecv(got, previous, group, tag)]
        return works, lambda: same(got, numbers(self.seed, step, previous, step.size), step, True)

    def _barrier(self, step: Step, members: tuple[int, ...], group: Any) -> Any:
        return [dist.barrier(group=group, async_op=not step.wait)], lambda: None


def run(fabric: Any, seed: int, count: int) -> dict[str, int]:
    """Play `count` operations; how many of each kind this rank took part in."""
    rank, n = fabric.config.rank, fabric.config.world_size
    groups = groupings(n, random.Random(seed))
    player = Player(rank, seed, groups)
    steps = steps_of(seed, count, len(groups), [len(members) for members in groups])
    taken: Counter[str] = Counter()
    player.open_groups()
    for step in steps:
        if step.index and step.index % REGROUP == 0:
            player.close_groups()
            player.open_groups()
        try:
            player.play(step)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, rank {rank} of {n}: {error}") from error
        taken[step.kind] += rank in groups[step.group]
    player.close_groups()
    dist.barrier()
    return dict(taken)
