"""Gradients on their way from autograd into the flat buffer, and from there, bucket by bucket, to whoever sends them.

A hook on each parameter takes its gradient the moment backward has finished it. When the last micro-batch has filled a
bucket it is handed on at once, so that it travels while backward goes on. Collectives must meet in the same order on
every rank, therefore buckets leave strictly in buffer order, whatever order autograd took here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from smolcluster.runtime.device import Pending
from smolcluster.strategies.flat import Bucket, FlatParameters, Span

Send = Callable[[Bucket], Pending]


class GradientStream:
    """Collects one step's gradients into `flat.grads` (their sum over micro-batches) and sends complete buckets.

    A parameter that got no gradient counts as zeros, so that ranks whose batches took different ways through the model
    still send the same buckets. `send` None: nothing travels (a single process).
    """

    def __init__(self, flat: FlatParameters, send: Send | None = None) -> None:
        self._flat = flat
        self._send = send
        self._buckets_of = {
            span.name: [b.index for b in flat.buckets if b.start < span.stop and span.start < b.stop]
            for span in flat.spans
        }
        self._seen: set[str] = set()
        self._missing: list[int] = []
        self._sent: list[Pending] = []
        self._next = 0
        self._last = False
        self._hooks = [
            span.parameter.register_post_accumulate_grad_hook(self._taker(span))  # type: ignore[no-untyped-call]
            for span in flat.spans
        ]

    def begin(self) -> None:
        """Start a step: forget the last one's gradients."""
        self._seen.clear()
        self._sent = []
        self._next = 0
        self._last = False
        self._missing = [0] * len(self._flat.buckets)
        for indices in self._buckets_of.values():
            for index in indices:
                self._missing[index] += 1

    def last_backward(self) -> None:
        """Say that the coming backward is the step's last: from now on complete buckets leave."""
        self._last = True

    def finish(self) -> None:
        """Send what is left (parameters without a gradient are zeros) and wait until every bucket has its result."""
        for span in self._flat.spans:
            if span.name not in self._seen:
                self._flat.view(self._flat.grads, span).zero_()
        self._missing = [0] * len(self._flat.buckets)
        self._send_complete()
        for pending in self._sent:
            pending.wait()
        self._sent = []

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
        place = self._flat.view(self._flat.grads, span)
        if span.name in self._seen:
            place.add_(gradient)
        else:
            place.copy_(gradient)
            self._seen.add(span.name)
        if self._last:
            for index in self._buckets_of[span.name]:
                self._missing[index] -= 1
            self._send_complete()

    def _send_complete(self) -> None:
        buckets = self._flat.buckets
        while self._next < len(buckets) and self._missing[self._next] == 0:
            if self._send is not None:
                self._sent.append(self._send(buckets[self._next]))
            self._next += 1
