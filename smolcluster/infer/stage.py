"""A stage as a state machine: a message in, messages out for the next stage (the tail's go to the head). No sockets.

It holds the sessions' caches and trusts nobody's count: a row that does not continue what its cache holds is an error
of that session, not a wrong answer. Sessions that it does not know, and older epochs, are not computed. Who computes
the layers it does not know: a Decoder here, or a tablet (tablet/layers.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from smolcluster.infer.messages import Cancel, Error, Logits, Open, Reset, Span, Step, Traffic
from smolcluster.models.cache import KVCache
from smolcluster.models.decoder import Row
from smolcluster.models.partition import LayerRange
from smolcluster.spec.shape import DecoderShape


class Layers(Protocol):
    """What computes a stage's layers. `kind`: the type of the hidden states that go on."""

    @property
    def shape(self) -> DecoderShape:
        """The model's."""
        ...

    @property
    def range(self) -> LayerRange:
        """Which of its layers these are."""
        ...

    @property
    def kind(self) -> torch.dtype:
        """Of the hidden states that go on."""
        ...

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for one session of at most `capacity` tokens."""
        ...

    def forget(self, cache: KVCache) -> None:
        """The session of that cache is over."""
        ...

    def __call__(self, x: Tensor, rows: Sequence[Row]) -> Tensor:
        """As Decoder's."""
        ...


@dataclass(frozen=True)
class StageState:
    """What a stage can say of itself. `busy_s`: seconds spent computing since it began."""

    sessions: int
    cache_bytes: int
    steps: int
    busy_s: float


class Stage:
    """One stage's sessions. Not thread-safe: one thread hands it its messages, in order."""

    def __init__(self, decoder: Layers, epoch: int = 0) -> None:
        self.decoder = decoder
        self.epoch = epoch
        self._caches: dict[int, KVCache] = {}
        self._steps = 0
        self._busy_s = 0.0

    @property
    def tail(self) -> bool:
        """Whether logits come out of it."""
        return self.decoder.range.last

    def state(self) -> StageState:
        """May be asked from another thread; sizes are then those of some moment."""
        caches = tuple(self._caches.values())
        return StageState(len(caches), sum(cache.bytes for cache in caches), self._steps, self._busy_s)

    def handle(self, message: Traffic) -> Iterator[Traffic]:
        """Take one message; what has to go on."""
        if isinstance(message, Reset):
            for session in tuple(self._caches):
                self._forget(session)
            self.epoch = message.epoch
            yield message
        elif message.epoch != self.epoch:
            return
        elif isinstance(message, Step):
            yield from self._step(message)
        elif isinstance(message, Open):
            yield from self._open(message)
        elif isinstance(message, (Cancel, Error)):
            self._forget(message.session)
            yield message

    def _open(self, message: Open) -> Iterator[Traffic]:
        if message.session in self._caches:
            yield self._error(message.session, "it was opened before: session ids are never used again")
        else:
            self._caches[message.session] = self.decoder.new_cache(message.max_len)
            if not self.tail:
                yield message

    def _step(self, message: Step) -> Iterator[Traffic]:
        good: list[tuple[Span, KVCache]] = []
        kept: list[Tensor] = []
        start = 0
        for span in message.spans:
            part = message.hidden[start : start + span.length]
            start += span.length
            cache = self._caches.get(span.session)
            if cache is None:
                yield self._error(span.session, "it is not open here")
            elif cache.length != span.pos or span.pos + span.length > cache.capacity:
                held, room = cache.length, cache.capacity
                yield self._error(
                    span.session, f"tokens {span.pos} to {span.pos + span.length} after {held}, with room for {room}"
                )
            elif span.length < 1:
                yield self._error(span.session, "it has no tokens in this step")
            elif any(span.session == other.session for other, _ in good):
                yield self._error(span.session, "it is twice in one step")
            else:
                good.append((span, cache))
                kept.append(part)
        hidden = message.hidden if len(good) == len(message.spans) else torch.cat([message.hidden[:0], *kept])
        spans = tuple(span for span, _ in good)
        out = self._compute(hidden, [Row(cache, span.length, span.wanted) for span, cache in good])
        if self.tail:
            wanted = tuple(span.session for span in spans if span.wanted)
            yield Logits(message.epoch, message.step, wanted, out)
        else:
            yield Step(message.epoch, message.step, spans, out)

    def _compute(self, hidden: Tensor, rows: list[Row]) -> Tensor:
        if not rows:  # the step goes on all the same: the head counts it
            width = self.decoder.shape.vocab_size if self.tail else self.decoder.shape.width
            return torch.empty(0, width, dtype=torch.float32 if self.tail else self.decoder.kind)
        began = time.perf_counter()
        out = self.decoder(hidden, rows)
        self._busy_s += time.perf_counter() - began
        self._steps += 1
        return out

    def _forget(self, session: int) -> None:
        cache = self._caches.pop(session, None)
        if cache is not None:
            self.decoder.forget(cache)

    def _error(self, session: int, reason: str) -> Error:
        self._forget(session)
        return Error(self.epoch, session, f"layers {self.decoder.range} refused it: {reason}")
