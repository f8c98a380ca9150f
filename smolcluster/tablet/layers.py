"""A tablet's layers as infer/stage.py knows layers: rows go over the connection one by one, in order.

The tablet holds keys and values; here is only how many tokens of a session it has. An error of the tablet's, of one
session too, comes out as the PeerError it is: the chain's epoch is over then, and the head sends all texts again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from smolcluster.errors import ConfigError, Problem
from smolcluster.models.cache import KVCache
from smolcluster.models.decoder import Row
from smolcluster.models.dense import Precision
from smolcluster.models.partition import LayerRange
from smolcluster.spec.shape import DecoderShape
from smolcluster.tablet.remote import TabletStage


class TabletCache(KVCache):
    """A session on a tablet, under a number that is never used again."""

    def __init__(self, number: int, capacity: int, token_bytes: int) -> None:
        super().__init__(0, capacity)
        self.number = number
        self._capacity = capacity
        self._token_bytes = token_bytes
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens that the tablet has."""
        return self._length

    @property
    def capacity(self) -> int:
        """The most tokens it was asked to hold."""
        return self._capacity

    @property
    def bytes(self) -> int:
        """What those tokens take there, at least."""
        return self._length * self._token_bytes

    def grow(self, count: int) -> None:
        """The tablet has taken so many more."""
        self._length += count


class TabletLayers:
    """The layers `part`. `kind`: of the hidden states that the next stage takes; numbers of 2 or 4 bytes go over."""

    def __init__(self, stage: TabletStage, shape: DecoderShape, part: LayerRange, kind: torch.dtype) -> None:
        self._stage = stage
        self.shape = shape
        self.range = part
        self.kind = kind
        size = 2 if stage.assign.dtype == "fp16" else 4
        self._token_bytes = size * 2 * part.size * shape.kv_heads * shape.head_dim
        self._numbers = itertools.count(1)

    def planned(self, part: LayerRange, _: Precision) -> TabletLayers:
        """Itself, as infer/worker.py has layers given. ConfigError: it has others, those that were exported for it."""
        if part != self.range:
            what = f"layers {part} were given to a tablet, which has {self.range}"
            raise ConfigError([Problem("plan.json", 0, "stages", what, "run the playbook again")])
        return self

    def new_cache(self, capacity: int) -> TabletCache:
        """An empty one; the tablet hears of it with its first tokens."""
        return TabletCache(next(self._numbers), capacity, self._token_bytes)

    def forget(self, cache: KVCache) -> None:
        """End that session on the tablet."""
        assert isinstance(cache, TabletCache)
        self._stage.forget(cache.number)

    def __call__(self, x: Tensor, rows: Sequence[Row]) -> Tensor:
        """As Decoder's. PeerError: the tablet has gone, or gave the session up."""
        out, start = [], 0
        for row in rows:
            cache = row.cache
            assert isinstance(cache, TabletCache)
            part = x[start : start + row.length]
            start += row.length
            values = self._stage.forward(cache.number, part, cache.length, cache.capacity)
            cache.grow(row.length)
            if row.wanted or not self.range.last:
                out.append(values)
        if self.range.last:
            return torch.cat(out) if out else torch.empty(0, self.shape.vocab_size)
        return torch.cat(out).to(self.kind)
