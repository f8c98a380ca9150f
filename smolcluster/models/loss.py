"""Mean cross-entropy of a vocabulary projection, without ever holding all logits.

The plain way, `cross_entropy(hidden @ weight.T, targets)`, keeps several (N, V) tensors alive: logits, their
log-softmax, the gradient of both. At a vocabulary of 50,257 they are most of a training step's memory. Here the rows
go through in chunks, and the gradient is formed in the forward pass while a chunk's softmax is at hand. So nothing is
computed twice: three matrix products, like the plain way, and one chunk alive.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Logits of one chunk: 2 M floats, 8 MB. Smaller ones stay in cache, but make thin matrix products.
CHUNK_ELEMENTS = 1 << 21
# Each chunk reads and writes the whole (V, D) gradient of the weight once: below this many rows that dominates.
MIN_ROWS = 128
# Rows of the weight that are multiplied together on a CPU: 2 MB at a width of 256. Figures: `benchmarks/loss.py`.
BLOCK_ROWS = 2048


def chunk_rows(rows: int, vocabulary: int, elements: int = CHUNK_ELEMENTS) -> int:
    """How many of `rows` go through together: even chunks of about `elements` logits."""
    most = max(MIN_ROWS, elements // vocabulary)
    chunks = -(-rows // most)
    return -(-rows // chunks)


def _project(hidden: Tensor, weight: Tensor, logits: Tensor) -> None:
    """hidden @ weight.T into logits, on a CPU in blocks of the vocabulary whose weights stay in its cache."""
    block = BLOCK_ROWS if hidden.device.type == "cpu" else weight.shape[0]
    for start in range(0, weight.shape[0], block):
        stop = start + block
        torch.mm(hidden, weight[start:stop].t(), out=logits[:, start:stop])


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, elements: int) -> Tensor:
        rows, vocabulary = hidden.shape[0], weight.shape[0]
        size = chunk_rows(rows, vocabulary, elements)
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        logits_buffer = hidden.new_empty((size, vocabulary))
        scores_buffer = torch.empty_like(logits_buffer)
        total = hidden.new_zeros(())
        for start in range(0, rows, size):
            part, wanted = hidden[start : start + size], targets[start : start + size].unsqueeze(1)
            logits, scores = logits_buffer[: len(part)], scores_buffer[: len(part)]
            _project(part, weight, logits)
            # One pass gives the softmax, for the gradient, and the log of its denominator: the largest logit's share is
            # 1 / sum(exp(logit - largest)). A log-softmax would cost one more exp of everything.
            largest, where = logits.max(dim=1, keepdim=True)
            torch.softmax(logits, dim=1, out=scores)
            total += (largest - scores.gather(1, where).log() - logits.gather(1, wanted)).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            # d loss / d logits = (softmax - one_hot) / rows; the division rides along in the products.
            error = scores.scatter_add_(1, wanted, scores.new_full((len(part), 1), -1.0))
            if grad_hidden is not None:
                into = grad_hidden[start : start + size]
                torch.addmm(into, error, weight, beta=0, alpha=1 / rows, out=into)
            if grad_weight is not None:
                beta = 0 if start == 0 else 1
                torch.addmm(grad_weight, error.t(), part, beta=beta, alpha=1 / rows, out=grad_weight)
        ctx.grads = (grad_hidden, grad_weight)
        return total / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("this loss was differentiated already: its gradients were given away, not kept")
        # In place: the buffers are ours and nobody needs them again.
        grad_hidden, grad_weight = (None if g is None else g.mul_(grad) for g in grads)
        return grad_hidden, grad_weight, None, None


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, elements: int = CHUNK_ELEMENTS) -> Tensor:
    """The mean over N of -log softmax(hidden @ weight.T)[target]: a scalar.

    hidden (N, D) and weight (V, D) of one floating type, targets (N,) int64 in [0, V). `elements` bounds one chunk's
    logits. Can be differentiated once, with respect to hidden and weight.
    """
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1] or weight.shape[1:] != hidden.shape[1:]:
        raise ValueError(f"expected (N, D), (V, D), (N,): got {hidden.shape}, {weight.shape}, {targets.shape}")
    return cast(Tensor, _ChunkedCrossEntropy.apply(hidden, weight, targets, elements))


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same number the plain way. The oracle of the tests, and what the benchmark compares with."""
    return functional.cross_entropy(functional.linear(hidden, weight), targets)
