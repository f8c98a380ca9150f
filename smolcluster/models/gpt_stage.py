"""Some of a GPT's layers, to be trained where the others lie on other ranks. Names and first values are the whole's.

Layer numbers are the whole model's, in names too, so that what one split saves any other loads. The first stage has the
embeddings, the last one the final norm and the projection onto the vocabulary; a tied embedding lies at both ends, the
same values at each (strategies/mp keeps them so).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from smolcluster.models.compiled import compiled
from smolcluster.models.gpt import Block, initialise
from smolcluster.models.loss import chunked_cross_entropy
from smolcluster.models.partition import LayerRange
from smolcluster.spec.pretrained import LAYER_NORM_EPS
from smolcluster.spec.run import GPTSpec

TIED = "transformer.wte.weight"


class _Body(nn.Module):
    """The part of models.gpt.Transformer that a range of layers needs."""

    def __init__(self, spec: GPTSpec, layers: LayerRange) -> None:
        super().__init__()
        if layers.first or (layers.last and spec.tie_embeddings):
            self.wte = _table(spec.vocab_size, spec.model_dim)
        if layers.first:
            self.wpe = _table(spec.num_positions, spec.model_dim)
        self.h = nn.ModuleDict({str(number): Block(spec) for number in range(layers.start, layers.stop)})
        if layers.last:
            self.ln_f = nn.LayerNorm(spec.model_dim, eps=LAYER_NORM_EPS)


class GPTStage(nn.Module):
    """Layers `layers` of the model of `spec`. `tied`: the name of the parameter that lies at both ends, or None."""

    def __init__(self, spec: GPTSpec, layers: LayerRange, seed: int = 0) -> None:
        super().__init__()
        if spec.model_dim % spec.num_heads:
            raise ValueError(f"model_dim {spec.model_dim} is not a multiple of num_heads {spec.num_heads}")
        self.spec, self.layers = spec, layers
        self.tied = TIED if spec.tie_embeddings and not (layers.first and layers.last) else None
        self.transformer = _Body(spec, layers)
        self.lm_head: nn.Linear | None = None
        if layers.last and not spec.tie_embeddings:
            self.lm_head = nn.utils.skip_init(nn.Linear, spec.model_dim, spec.vocab_size, bias=False)
        self.recomputes = False
        initialise(self, spec, seed)

    def hidden_shape(self, samples: int) -> tuple[int, ...]:
        """What travels between two stages for so many samples: (B, T, D)."""
        return samples, self.spec.max_seq_len, self.spec.model_dim

    def forward(self, x: Tensor) -> Tensor:
        """Ids (B, T) int64 in the first stage, else hidden states (B, T, D) -> (B, T, D)."""
        body = self.transformer
        if self.layers.first:
            x = body.wte(x) + body.wpe.weight[: x.shape[1]]
            x = functional.dropout(x, self.spec.dropout, self.training)
        recomputes = self.recomputes and torch.is_grad_enabled()
        for block in body.h.values():
            x = checkpoint(block, x, use_reentrant=False) if recomputes else block(x)
        return body.ln_f(x) if self.layers.last else x

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Of the last stage: what the stage before it gave, and targets (B, T) -> the mean cross-entropy, a scalar."""
        head = self.transformer.wte.weight if self.lm_head is None else self.lm_head.weight
        return chunked_cross_entropy(self(x).flatten(0, 1), head, targets.flatten())

    def checkpoint_blocks(self) -> None:
        """As GPT's."""
        self.recomputes = True

    def compile_blocks(self) -> None:
        """As GPT's."""
        for block in self.transformer.h.values():
            block.forward = compiled(block.forward)


def _table(rows: int, width: int) -> nn.Embedding:
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))
