"""A tied embedding's gradient in two parts: the projection's travels during backward, the lookups' rows after it.

Without this the largest parameter of a small GPT would be complete only when backward is over, and nothing would hide
its way over the wire (models/lookup.py). The rows of all ranks are gathered and added by everybody in rank order, so
replicas stay equal. They are bytes on top of the ring's optimum, hence only done where they are few.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast, runtime_checkable

import torch
from torch import nn

from smolcluster.comm.codec import codec_of
from smolcluster.models.lookup import LookupSink, Room
from smolcluster.plan.traffic import MOST_EXTRA
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.device import Collectives
from smolcluster.spec.run import GPTSpec
from smolcluster.strategies.flat import Layout, trainable
from smolcluster.strategies.pieces import Piece, slices_of


@runtime_checkable
class PartsLookups(Protocol):
    """A model that can hand out the gradients of its embedding's lookups."""

    def tied_embedding(self) -> str | None:
        """The name of the parameter that is read at both ends; None if there is none."""
        ...

    def part_lookups(self, sink: LookupSink | None, room: Room | None = None) -> None:
        """Gradients of lookups go to `sink`; None: into the weight, as usual. room: where the others may be formed."""
        ...


class Lookups:
    """The looked up rows of one step. Every rank has at most `most_rows` of width `width`."""

    def __init__(self, model: PartsLookups, name: str, most_rows: int, width: int, collectives: Collectives) -> None:
        self.name = name
        self._model = model
        self._most_rows = most_rows
        self._width = width
        self._collectives = collectives
        self._taken: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.offer(None)

    def offer(self, room: Room | None) -> None:
        """Say where the projection's gradient may be formed, so that it need not be copied there."""
        self._model.part_lookups(lambda ids, grads: self._taken.append((ids, grads)), room)

    def add_all(self, layout: Layout, grads: Iterable[Piece]) -> None:
        """Add every rank's rows to the gradients that lie here, of whatever cut; call it when those are summed."""
        ids, rows = self._gathered(layout)
        for part in slices_of(layout, "{}", grads, None):
            if part.name == self.name:
                (first, column), (count, width) = part.box.offset, part.box.sizes
                here = (ids >= first) & (ids < first + count)
                part.tensor.index_add_(0, ids[here] - first, rows[here, column : column + width])

    def close(self) -> None:
        """Let the model take its gradients as usual again."""
        self._model.part_lookups(None)

    def _gathered(self, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        """All ranks' ids and rows, in rank order. Who has fewer than the most sends rows of zeros for id 0."""
        most, world_size, rank = self._most_rows, self._collectives.world_size, self._collectives.rank
        everybody = layout.zeros(world_size * most * (self._width + 1)).view(world_size, -1)
        mine = everybody[rank]
        used = sum(len(ids) for ids, _ in self._taken)
        if used > most:
            raise ValueError(f"{used} rows were looked up in a step; the plan has at most {most} tokens for a rank")
        if used:
            # The ids travel as the bits of a float: nothing on the way calculates with them.
            mine[:used].view(torch.int32).copy_(torch.cat([ids for ids, _ in self._taken]))
            torch.cat([grads for _, grads in self._taken], out=mine[most : most + used * self._width].view(used, -1))
            self._taken.clear()
        self._collectives.all_gather(everybody.view(-1), mine).wait()
        ids = everybody[:, :most].contiguous().view(torch.int32).flatten().long()
        return ids, everybody[:, most:].reshape(-1, self._width)


def lookups_of(context: RunContext, model: nn.Module, collectives: Collectives) -> Lookups | None:
    """The lookups of a model that can part them, where it is worth it. The same answer on every rank."""
    spec = context.run.model
    if context.world_size == 1 or not isinstance(model, PartsLookups) or not isinstance(spec, GPTSpec):
        return None
    name = model.tied_embedding()
    weights = dict(trainable(model))
    if name is None or name not in weights or weights[name].element_size() != torch.int32.itemsize:
        return None
    width = weights[name].shape[1]
    most_rows = max(rank.samples for rank in context.plan.ranks) * spec.max_seq_len
    total = sum(weight.numel() for weight in weights.values())
    # Rows travel in float32: against 2(N-1)/N x total of the ring, both over N-1, in the wire format's bytes.
    extra = torch.float32.itemsize * most_rows * (width + 1) * context.world_size / 2
    if extra > MOST_EXTRA * codec_of(context.plan.wire).frame_bytes(total):
        return None
    return Lookups(cast(PartsLookups, model), name, most_rows, width, collectives)
