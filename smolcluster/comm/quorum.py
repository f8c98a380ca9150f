"""Which list of ranks may go on, when some did not come? Pure; muster.py brings the ranks together and asks here.

What a rank knows, and makes last, is an Entry: the list it was in last, and the lists that it offered or accepted since
without hearing what became of them. Those may count for others: whoever has accepted one cannot know whether its leader
heard so. Therefore a new list must hold the majority of the last one and of every such list, as far as those who came
know them. Two majorities of one list share a rank, and that one tells the later list of the earlier: of the lists that
count each shares a rank with the one before, and two parts of a cluster never both go on.

A majority is more than half, or half with the lowest rank.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pydantic import Field

from smolcluster.errors import DeadlineError
from smolcluster.spec.base import Frozen


class Muster(Frozen):
    """A list of those who go on. `members` are ranks of the whole plan, ascending."""

    generation: int = Field(ge=0)
    members: tuple[int, ...] = Field(min_length=1)


class Entry(Frozen):
    """What a rank says of itself: the last generation it was in (-1: none yet), everybody who was, and what is open."""

    rank: int = Field(ge=0)
    generation: int = Field(ge=-1)
    members: tuple[int, ...]
    pending: tuple[Muster, ...] = ()

    def offered(self, verdict: Muster) -> Entry:
        """What this rank knows once it has offered or accepted a list."""
        others = tuple(one for one in self.pending if one.members != verdict.members)
        return self.model_copy(update={"pending": (*others, verdict)})

    def committed(self, verdict: Muster) -> Entry:
        """What it knows once all have accepted it. The list was made with what was open, which is settled by it."""
        return Entry(rank=self.rank, generation=verdict.generation, members=verdict.members)


def last_of(known: Iterable[Entry]) -> Entry:
    """The entry that knows of the latest generation."""
    return max(known, key=lambda entry: (entry.generation, -entry.rank))


def open_lists(known: Collection[Entry]) -> list[Muster]:
    """Lists that may count although nobody who came knows so; a later one that does count settles them."""
    last = last_of(known).generation
    return [one for entry in known for one in entry.pending if one.generation > last]


def awaited(known: Collection[Entry], world_size: int) -> frozenset[int]:
    """Who is waited for: who was there last or may have been; before the first generation everybody."""
    last = last_of(known)
    if last.generation < 0:
        return frozenset(range(world_size))
    return frozenset(last.members).union(*(one.members for one in open_lists(known)))


def verdict_of(known: Collection[Entry], world_size: int, seconds: float) -> Muster:
    """The list of those who came and know this. DeadlineError: they may not go on without the others.

    Before the first generation all have to come. `seconds`: how long the others were waited for.
    """
    came, last = {entry.rank for entry in known}, last_of(known)
    if last.generation < 0:
        _require(came.issuperset(range(world_size)), range(world_size), came, "all have to", seconds)
    else:
        need = "more than half of them have to, or half with the lowest"
        _require(_majority(came, last.members), last.members, came, need, seconds)
        for one in open_lists(known):
            need = f"more than half of {list(one.members)}, who may have gone on, have to, or half with the lowest"
            _require(_majority(came, one.members), one.members, came, need, seconds)
    numbers = [last.generation, *(one.generation for one in open_lists(known))]
    return Muster(generation=max(numbers) + 1, members=tuple(sorted(came)))


def _majority(came: Collection[int], members: Collection[int]) -> bool:
    there = set(members).intersection(came)
    return 2 * len(there) > len(members) or (2 * len(there) == len(members) and min(members) in there)


def _require(enough: bool, members: Iterable[int], came: Collection[int], need: str, seconds: float) -> None:
    if not enough:
        missing = ", ".join(str(rank) for rank in sorted(set(members).difference(came)))
        raise DeadlineError(
            f"rank(s) {missing} did not come within {seconds:g} s, and {need}. "
            "Fix: look at their logs; or go on with fewer: -e resume=true -e nodes=..."
        )
