"""Rows taken from an embedding whose gradient goes a way of its own, apart from the rest of its weight's.

A tied embedding gets its gradient from both ends of the model. That of the projection onto the vocabulary, all of it,
is there before backward begins (loss.py); that of the lookup, a few rows, only when backward ends. Added up by
autograd, the large one waits for the small one. Data parallelism parts them: the large one may travel meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Gets the ids that were looked up (n,) and their rows' gradients (n, D). An id may come more than once.
LookupSink = Callable[[Tensor, Tensor], None]
# Says where the gradient of the projection, (V, D), may be formed in the coming pass; None: in memory of its own.
Room = Callable[[], Tensor | None]


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _: Tensor, weight: Tensor, ids: Tensor, sink: LookupSink) -> Tensor:
        ctx.ids, ctx.sink = ids, sink
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None]:
        ctx.sink(ctx.ids.flatten(), grad.flatten(0, -2))
        return None, None, None, None


def lookup_apart(weight: Tensor, ids: Tensor, sink: LookupSink) -> Tensor:
    """weight[ids]; (V, D) and (...) int64 -> (..., D). The rows' gradients go to `sink` and not to the weight."""
    # Autograd must not know of the weight, or it would wait for this gradient before it hands the other one over. It
    # comes here all the same because of something else that seems to need one.
    anchor = torch.zeros((), device=weight.device, requires_grad=True)
    return _Apart.apply(anchor, weight.detach(), ids, sink)
