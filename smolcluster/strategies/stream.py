"""Gradients on their way from autograd into their buckets, and from there, bucket by bucket, to whoever sends them.

A hook on each parameter takes its gradient the moment backward has finished it. When the last micro-batch of a pass has
filled a bucket it is handed on at once, so that it travels while backward goes on. Collectives must meet in the same
order on every rank, therefore buckets leave strictly in order, whatever order autograd took here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from smolcluster.strategies.flat import Bucket, Layout, Span

Room = Callable[[Bucket], torch.Tensor]
Leave = Callable[[Bucket], None]


class GradientStream:
    """Sums a pass's gradients over its micro-batches, and says when a bucket is complete.

    `room(bucket)` is the 1-D tensor a bucket's gradients are put into; it is asked for each of them. `leave(bucket)` is
    called once a pass for each bucket, in order. A parameter that got no gradient counts as zeros, so that ranks whose
    batches took different ways through the model still send the same buckets.
    """

    def __init__(self, layout: Layout, room: Room, leave: Leave) -> None:
        self._layout = layout
        self._room = room
        self._leave = leave
        self._spans_in = [layout.spans_in(bucket) for bucket in layout.buckets]
        self._buckets_of = {
            span.name: [b for b in layout.buckets if b.start < span.stop and span.start < b.stop]
            for span in layout.spans
        }
        self._seen: set[str] = set()
        self._missing: list[int] = []
        self._next = 0
        self._last = False
        self._hooks = [
            span.parameter.register_post_accumulate_grad_hook(self._taker(span))  # type: ignore[no-untyped-call]
            for span in layout.spans
        ]

    def untouched(self, name: str) -> bool:
        """Whether a parameter has no gradient yet in this pass."""
        return name not in self._seen

    def begin(self) -> None:
        """Start a pass: forget the last one's gradients."""
        self._seen.clear()
        self._next = 0
        self._last = False
        self._missing = [len(spans) for spans in self._spans_in]

    def last_backward(self) -> None:
        """Say that the coming backward is the pass's last: from now on complete buckets leave."""
        self._last = True

    def flush(self, end: int | None = None) -> None:
        """Let the buckets before number `end` (None: all) leave as they are: what has no gradient is zeros."""
        stop = len(self._layout.buckets) if end is None else end
        while self._next < stop:
            bucket = self._layout.buckets[self._next]
            for span in self._spans_in[bucket.index]:
                if span.name not in self._seen:
                    self._part(bucket, span).zero_()
            self._leave_next()

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def _taker(self, span: Span) -> Callable[[nn.Parameter], None]:
        def take(parameter: nn.Parameter) -> None:
            gradient = parameter.grad
            assert gradient is not None, "torch calls this hook after it has put the gradient there"
            self._put(span, gradient)
            # Autograd hands over a fresh tensor next time instead of adding into this one: one pass over memory less.
            parameter.grad = None

        return take

    def _put(self, span: Span, gradient: torch.Tensor) -> None:
        flat = gradient.reshape(-1)
        for bucket in self._buckets_of[span.name]:
            if bucket.index < self._next:
                raise RuntimeError(f"{span.name} got a gradient when backward had left its unit: see Model.shard_units")
            place = self._part(bucket, span)
            start = max(bucket.start - span.start, 0)
            part = flat[start : start + len(place)]
            if span.name in self._seen:
                place.add_(part)
            elif part.data_ptr() != place.data_ptr():  # it may have been formed here
                place.copy_(part)
            if self._last:
                self._missing[bucket.index] -= 1
                self._leave_complete()
        self._seen.add(span.name)

    def _part(self, bucket: Bucket, span: Span) -> torch.Tensor:
        start, stop = max(span.start, bucket.start), min(span.stop, bucket.stop)
        return self._room(bucket)[start - bucket.start : stop - bucket.start]

    def _leave_complete(self) -> None:
        while self._next < len(self._layout.buckets) and self._missing[self._next] == 0:
            self._leave_next()

    def _leave_next(self) -> None:
        bucket = self._layout.buckets[self._next]
        self._next += 1
        self._leave(bucket)
