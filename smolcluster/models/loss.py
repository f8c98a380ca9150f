"""Mean cross-entropy of a vocabulary projection, without ever holding all logits.

The plain way, `cross_entropy(hidden @ weight.T, targets)`, keeps several (N, V) tensors alive: logits, their
log-softmax, the gradient of both. At a vocabulary of 50,257 they are most of a training step's memory. Here the rows
go through in chunks, and the gradient is formed in the forward pass while a chunk's exponentials are at hand. So
nothing is computed twice: three matrix products, like the plain way, and one chunk alive, in one buffer.

Two things make it cheap on a CPU (figures: `python -m benchmarks.loss`). A chunk's logits lie **transposed**, (V, n),
so that products write and read whole rows. And the vocabulary goes through in blocks that stay in a cache from the
product that makes them to the one that uses them: an online softmax (Milakov and Gimelshein, arXiv:1805.02867), where
each block's exponentials are relative to the largest logit so far, and are corrected later on the small side.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Logits of one chunk: 2 M floats, 8 MB. Smaller ones stay in cache, but make thin matrix products.
CHUNK_ELEMENTS = 1 << 21
# Each chunk reads and writes the whole (V, D) gradient of the weight once: below this many rows that dominates.
MIN_ROWS = 512
# Rows of the weight that go together on a CPU: with 512 rows of hidden their logits are 1 MB.
BLOCK_ROWS = 512


def chunk_rows(rows: int, vocabulary: int, elements: int = CHUNK_ELEMENTS) -> int:
    """How many of `rows` go through together: even chunks of about `elements` logits."""
    most = max(MIN_ROWS, elements // vocabulary)
    chunks = -(-rows // most)
    return -(-rows // chunks)


class _Block(NamedTuple):
    """Some rows of the vocabulary: exp(logits - largest) (v, n), with the largest logits (n) up to this block."""

    exps: Tensor
    largest: Tensor


def _exponentials(
    part: Tensor, weight: Tensor, buffer: Tensor, weighted: Tensor | None
) -> tuple[list[_Block], Tensor, Tensor]:
    """The blocks of a chunk's logits, the largest logit of each of the n rows of `part` (n, D), and their sums.

    sums is the softmax's denominator, relative to the largest. `weighted` (n, D) gets exps.T @ weight.
    """
    largest = part.new_full((len(part),), -torch.inf)
    sums = part.new_zeros(len(part))
    if weighted is not None:
        weighted.zero_()
    block_rows = BLOCK_ROWS if part.device.type == "cpu" else len(weight)
    blocks: list[_Block] = []
    for rows, logits in zip(weight.split(block_rows), buffer.split(block_rows), strict=True):
        torch.mm(rows, part.t(), out=logits)
        before, largest = largest, torch.maximum(largest, logits.amax(0))
        exps = logits.sub_(largest).exp_()
        shrink = (before - largest).exp_()
        sums.mul_(shrink).add_(exps.sum(0))
        if weighted is not None:
            weighted.mul_(shrink.unsqueeze(1)).addmm_(exps.t(), rows)
        blocks.append(_Block(exps, largest))
    return blocks, largest, sums


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, elements: int, room: Tensor | None
    ) -> Tensor:
        count, vocabulary = hidden.shape[0], weight.shape[0]
        size = chunk_rows(count, vocabulary, elements)
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = None
        if need_weight:
            grad_weight = torch.empty_like(weight) if room is None else room
        buffer = hidden.new_empty(vocabulary * size)
        total = hidden.new_zeros(())
        for start in range(0, count, size):
            part, wanted = hidden[start : start + size], targets[start : start + size]
            into = grad_hidden[start : start + size] if grad_hidden is not None else None
            place = buffer[: vocabulary * len(part)].view(vocabulary, len(part))
            blocks, largest, sums = _exponentials(part, weight, place, into)
            right = weight[wanted]
            total += (sums.log() + largest - (part * right).sum(1)).sum()
            # d loss / d logits = (softmax - one_hot) / count. Division and correction are done on the small side.
            scale = (sums * count).reciprocal_()
            if into is not None:
                into.mul_(scale.unsqueeze(1)).sub_(right, alpha=1 / count)
            if grad_weight is not None:
                for block, rows in zip(blocks, grad_weight.split(len(blocks[0].exps)), strict=True):
                    scaled = part * (scale * (block.largest - largest).exp_()).unsqueeze(1)
                    torch.addmm(rows, block.exps, scaled, beta=0 if start == 0 else 1, out=rows)
                grad_weight.index_add_(0, wanted, part, alpha=-1 / count)
        ctx.grads = (grad_hidden, grad_weight)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("this loss was differentiated already: its gradients were given away, not kept")
        # In place: the buffers are ours and nobody needs them again.
        grad_hidden, grad_weight = (None if g is None else g.mul_(grad) for g in grads)
        return grad_hidden, grad_weight, None, None, None


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, elements: int = CHUNK_ELEMENTS, room: Tensor | None = None
) -> Tensor:
    """The mean over N of -log softmax(hidden @ weight.T)[target]: a scalar.

    hidden (N, D) and weight (V, D), targets (N,) int64 in [0, V). `elements` bounds one chunk's logits. Can be
    differentiated once, with respect to hidden and weight. All of it is computed in the weight's type, under autocast
    too: a sum over fifty thousand exponentials is no place for eight bits.

    room: where the weight's gradient is formed, (V, D) of its type and contiguous; by default in fresh memory. It is
    written from now until backward.
    """
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1] or weight.shape[1:] != hidden.shape[1:]:
        raise ValueError(f"expected (N, D), (V, D), (N,): got {hidden.shape}, {weight.shape}, {targets.shape}")
    with torch.autocast(hidden.device.type, enabled=False):
        if not torch.is_grad_enabled():
            # A function of our own is asked for the gradient of whatever may have one, wanted or not.
            weight = weight.detach()
        return cast(Tensor, _ChunkedCrossEntropy.apply(hidden.to(weight.dtype), weight, targets, elements, room))


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same number the plain way. The oracle of the tests, and what the benchmark compares with."""
    return functional.cross_entropy(functional.linear(hidden, weight), targets)
