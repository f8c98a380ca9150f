"""A rank was lost: who of those that meet in a new group goes on with what it has, and from whom others get theirs.

Every commit is named by its round and by the generation, the group of ranks, that made it. Nobody commits a round
before every rank of its group has the sum. So if anybody has committed it, whoever has that very sum commits it now, by
itself; if nobody has, it is done again by those who are left, from what they retained. Whoever has neither the last
commit nor its sum, a process that was started again or a rank that was frozen meanwhile, is a joiner: it gets anchor,
momentum and the leader's inner state, owes nothing, and begins the round with no step. Pure but for what is carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from smolcluster.strategies.diloco.inner import Work
from smolcluster.strategies.diloco.slots import Conclusion

NOTHING = -1


@dataclass(frozen=True)
class Standing:
    """What a rank says of itself when it meets others. `rounds` are those committed, the last in group `generation`.

    ready: the generation that made the sum of the round after it, NOTHING if it has none. taken: of how many global
    batches anybody has had a share, as far as it knows.
    """

    rounds: int = NOTHING
    generation: int = NOTHING
    ready: int = NOTHING
    taken: int = 0

    def values(self) -> list[float]:
        """As it travels."""
        return [float(self.rounds), float(self.generation), float(self.ready), float(self.taken)]

    @staticmethod
    def of(values: Sequence[float]) -> Standing:
        """What travelled so."""
        return Standing(*map(int, values))


@dataclass(frozen=True)
class Regrouped:
    """leader: the rank whose state counts. committing: ranks that commit the sum they have; joiners: who gets all."""

    leader: int
    committing: tuple[int, ...]
    joiners: tuple[int, ...]
    taken: int


def regroup(standings: Sequence[Standing]) -> Regrouped | None:
    """Conclude who goes on with what; None where nobody carries anything. The same on every rank."""
    best = max((one.rounds, one.generation) for one in standings)
    if best[0] == NOTHING:
        return None
    there = [rank for rank, one in enumerate(standings) if (one.rounds, one.generation) == best]
    committing = [rank for rank, one in enumerate(standings) if (one.rounds + 1, one.ready) == best]
    return Regrouped(
        leader=there[0],
        committing=tuple(committing),
        joiners=tuple(rank for rank in range(len(standings)) if rank not in (*there, *committing)),
        taken=max(one.taken for one in standings),
    )


@dataclass(frozen=True)
class Sum:
    """A round that only has to be committed: the sum of its contributions, what this rank owes then, what its table
    said, and its own part of it. since, work: how far the rank has gone after that part, and what it did; None and
    nothing where rounds do not overlap.
    """

    total: torch.Tensor
    owed: torch.Tensor | None
    table: Conclusion
    part: Work
    since: torch.Tensor | None
    work: Work


@dataclass(frozen=True)
class Carried:
    """All that a rank takes from a group that failed into the next. Vectors are as long as the parameters.

    work: what it has done that is not committed, all that lies between anchor and params. sum: of the round that was on
    its way; None where it was not all there.
    """

    standing: Standing
    world_size: int
    params: torch.Tensor
    anchor: torch.Tensor
    momentum: torch.Tensor | None
    moments: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    owed: torch.Tensor | None
    progress: torch.Tensor
    taken: int
    work: Work
    sum: Sum | None
