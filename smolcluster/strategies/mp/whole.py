"""The whole model by name, where no rank holds it: collected on rank 0, or handed out from there.

It goes between rank 0 and the other ranks of its own pipeline; replicas are the strategy's own affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from smolcluster.strategies.mp.catalogue import Shapes
from smolcluster.strategies.mp.hops import Incoming, Outgoing

# The tag of these messages.
WHOLE = 4


class WholeModel:
    """`held`: every rank's parameters. `pipeline`: the ranks of rank 0's, itself first."""

    def __init__(self, held: Sequence[Shapes], pipeline: Sequence[int]) -> None:
        self._held, self._pipeline = held, pipeline

    @property
    def shapes(self) -> Shapes:
        """Every parameter of the whole model."""
        return {name: shape for rank in self._pipeline for name, shape in self.owned_by(rank).items()}

    @property
    def ties_ends(self) -> bool:
        """Whether the first and the last stage share a parameter."""
        first, last = self._pipeline[0], self._pipeline[-1]
        return first != last and bool(self._held[first].keys() & self._held[last].keys())

    def owned_by(self, rank: int) -> Shapes:
        """What a rank of the pipeline holds, but for what an earlier one holds too."""
        before = {name for earlier in self._held[:rank] for name in earlier}
        return {name: shape for name, shape in self._held[rank].items() if name not in before}

    def collect(self, rank: int, mine: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """All of it on rank 0, in the CPU's memory; None elsewhere. Every rank of the pipeline must call it."""
        if rank:
            going = Outgoing(0, WHOLE)
            for name in self.owned_by(rank):
                going.send(mine[name])
            going.flush()
            return None
        whole = {name: parameter.detach().to("cpu", copy=True) for name, parameter in mine.items()}
        for other in self._pipeline[1:]:
            shapes = self.owned_by(other)
            coming = Incoming(other, torch.device("cpu"), WHOLE)
            coming.expect(shapes.values())
            whole.update((name, coming.take()) for name in shapes)
        return whole

    def hand_out(self, rank: int, given: Mapping[str, torch.Tensor] | None) -> Mapping[str, torch.Tensor]:
        """Of what rank 0 has by name, this rank's. Every rank of the pipeline must call it, the others with None."""
        if rank:
            coming = Incoming(0, torch.device("cpu"), WHOLE)
            coming.expect(self._held[rank].values())
            return {name: coming.take() for name in self._held[rank]}
        assert given is not None, "rank 0 has what the others wait for"
        for other in self._pipeline[1:]:
            going = Outgoing(other, WHOLE)
            for name in self._held[other]:
                going.send(given[name])
            going.flush()
        return given
