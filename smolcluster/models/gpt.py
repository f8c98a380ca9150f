"""GPT-2: pre-norm decoder blocks, learned positions, tanh-GELU. Parameters are named and laid out as in Hugging Face.

So a state dict of GPT2LMHeadModel loads as it is, and ours loads there; hf.py only adds the files around it. Weights of
projections are (in, out), Hugging Face's "Conv1D". Source: Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners". It knows nothing of training, devices or other ranks.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from smolcluster.models.cache import KVCache, LayerCache, with_past
from smolcluster.models.compiled import compiled
from smolcluster.models.lookup import LookupSink, Room, lookup_apart
from smolcluster.models.loss import chunked_cross_entropy
from smolcluster.models.short import product
from smolcluster.models.units import ShardUnit
from smolcluster.spec.pretrained import LAYER_NORM_EPS
from smolcluster.spec.run import GPTSpec

INIT_STD = 0.02


class Projection(nn.Module):
    """y = x @ weight + bias with weight (in, out), as GPT-2 stores it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return product(x, self.weight, self.bias)


class Attention(nn.Module):
    """Causal self-attention over all heads at once."""

    def __init__(self, spec: GPTSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.dropout = spec.dropout
        self.c_attn = Projection(spec.model_dim, 3 * spec.model_dim)
        self.c_proj = Projection(spec.model_dim, spec.model_dim)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D). With a cache the T tokens follow those it holds, and are added to it."""
        batch, length, width = x.shape
        qkv = self.c_attn(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        # Unbound before they are transposed: the gradients then go back in one copy instead of two.
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, T, head_dim) views
        key, value, mask, causal = with_past(cache, key, value)
        dropout = self.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=causal)
        out = self.c_proj(out.transpose(1, 2).reshape(batch, length, width))
        return functional.dropout(out, self.dropout, self.training)


class MLP(nn.Module):
    """D -> ff_dim -> D with the tanh approximation of GELU."""

    def __init__(self, spec: GPTSpec) -> None:
        super().__init__()
        self.dropout = spec.dropout
        self.c_fc = Projection(spec.model_dim, spec.ff_dim)
        self.c_proj = Projection(spec.ff_dim, spec.model_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        out = self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))
        return functional.dropout(out, self.dropout, self.training)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, spec: GPTSpec) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(spec.model_dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(spec)
        self.ln_2 = nn.LayerNorm(spec.model_dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(spec)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Embeddings, blocks, last norm: everything but the projection onto the vocabulary."""

    def __init__(self, spec: GPTSpec) -> None:
        super().__init__()
        self.dropout = spec.dropout
        self.wte = nn.Embedding(spec.vocab_size, spec.model_dim, _weight=torch.empty(spec.vocab_size, spec.model_dim))
        self.wpe = nn.Embedding(
            spec.num_positions, spec.model_dim, _weight=torch.empty(spec.num_positions, spec.model_dim)
        )
        self.h = nn.ModuleList(Block(spec) for _ in range(spec.num_layers))
        self.ln_f = nn.LayerNorm(spec.model_dim, eps=LAYER_NORM_EPS)
        self.lookup_sink: LookupSink | None = None
        self.recomputes = False

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T) int64 -> (B, T, D)."""
        start, length = (cache.length if cache is not None else 0), ids.shape[1]
        if start + length > self.wpe.num_embeddings:
            raise ValueError(f"{start + length} tokens, but the model has positions for {self.wpe.num_embeddings}")
        if self.lookup_sink is not None and torch.is_grad_enabled():
            rows = lookup_apart(self.wte.weight, ids, self.lookup_sink)
        else:
            rows = self.wte(ids)
        x = rows + self.wpe.weight[start : start + length]
        x = functional.dropout(x, self.dropout, self.training)
        recomputes = self.recomputes and cache is None and torch.is_grad_enabled()
        for number, block in enumerate(self.h):
            if recomputes:
                # Keeps the block's input alone; dropout's random numbers are drawn again from the same state.
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, None if cache is None else cache.layers[number])
        return self.ln_f(x)


class GPT(nn.Module):
    """The language model. `spec.vocab_size` is its true vocabulary; the tied head is wte itself, one parameter."""

    def __init__(self, spec: GPTSpec, seed: int = 0) -> None:
        super().__init__()
        if spec.model_dim % spec.num_heads:
            raise ValueError(f"model_dim {spec.model_dim} is not a multiple of num_heads {spec.num_heads}")
        self.spec = spec
        self.transformer = Transformer(spec)
        self.lm_head: nn.Linear | None = None
        self._head_room: Room | None = None
        if not spec.tie_embeddings:
            self.lm_head = nn.utils.skip_init(nn.Linear, spec.model_dim, spec.vocab_size, bias=False)
        initialise(self, spec, seed)

    @property
    def head(self) -> Tensor:
        """The (V, D) projection onto the vocabulary."""
        return self.transformer.wte.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T) int64 -> logits (B, T, V). ValueError when the tokens do not fit into num_positions."""
        return functional.linear(self.transformer(ids, cache), self.head)

    def next_logits(self, ids: Tensor, cache: KVCache) -> Tensor:
        """(B, T) int64 that follow what the cache holds -> logits (B, V) of the token after them."""
        return functional.linear(self.transformer(ids, cache)[:, -1], self.head)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy (nats per token), a scalar; ids and targets (B, T) int64."""
        hidden = self.transformer(ids)
        room = self._head_room() if self._head_room is not None and torch.is_grad_enabled() else None
        return chunked_cross_entropy(hidden.flatten(0, 1), self.head, targets.flatten(), room=room)

    def tied_embedding(self) -> str | None:
        """The name of the parameter that is read at both ends of the model; None if there are two."""
        return "transformer.wte.weight" if self.lm_head is None else None

    def part_lookups(self, sink: LookupSink | None, room: Room | None = None) -> None:
        """From now on gradients of the tied embedding's lookups go to `sink`, not to its weight. None: as usual.

        room: where the rest of its gradient, the projection's, may be formed.
        """
        self.transformer.lookup_sink, self._head_room = sink, room

    def checkpoint_blocks(self) -> None:
        """From now on a training pass keeps the inputs of blocks, and backward computes a block again (Chen et al.,
        arXiv:1604.06174): less memory, a third more computation, the same numbers to the bit."""
        self.transformer.recomputes = True

    def compile_blocks(self) -> None:
        """From now on the blocks run through torch.compile; they share one compiled program. Hooks stay outside it."""
        for block in self.transformer.h:
            block.forward = compiled(block.forward)

    def shard_units(self) -> tuple[ShardUnit, ...]:
        """Embeddings, each block, last norm and loss. A tied embedding is read at both ends."""
        body = self.transformer
        head = body.wte if self.lm_head is None else self.lm_head
        return (
            ShardUnit(body, (body.wte, body.wpe), reread=False),
            *(ShardUnit(block, (block,)) for block in body.h),
            ShardUnit(body.ln_f, (body.ln_f, head)),
        )


@torch.no_grad()
def initialise(model: nn.Module, spec: GPTSpec, seed: int) -> None:
    """GPT-2's start, and Llama's too: normal(0, 0.02), output projections of the 2L residual branches smaller by
    sqrt(2L), norms one, biases zero.

    Every parameter draws from its own generator, seeded by (seed, name): the values depend on nothing else, so a rank
    that builds only some layers gets the same numbers as one that builds all.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.zero_()
        elif ".ln_" in name or name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            residual = name.endswith(("c_proj.weight", "o_proj.weight", "down_proj.weight"))
            std = INIT_STD / math.sqrt(2 * spec.num_layers) if residual else INIT_STD
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
