"""Llama's decoder, or some of its layers: RMSNorm, rotary positions, SwiGLU, heads that share keys and values.

Llama, Mistral, Qwen 2 and 3 and their kin, to be trained; models/decoder.py is the one that is served. Parameters are
named and laid out as in Hugging Face. The whole model is the stage with all layers: layer numbers in names are always
the whole model's, the first stage has the embeddings, the last one the final norm and the projection onto the
vocabulary; a tied embedding lies at both ends. Source: Touvron et al. 2023, arXiv:2302.13971.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from smolcluster.models.cache import KVCache, LayerCache, with_past
from smolcluster.models.compiled import compiled
from smolcluster.models.gpt import initialise
from smolcluster.models.loss import chunked_cross_entropy
from smolcluster.models.partition import LayerRange, whole
from smolcluster.models.rope import angles, rotate
from smolcluster.models.units import ShardUnit
from smolcluster.spec.run import GPTSpec, LlamaBlocks

TIED = "model.embed_tokens.weight"
# cos and sin, (T, 1, head_dim) each.
Turn = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Causal attention; `kv_heads` groups of heads share keys and values (Ainslie et al. 2023)."""

    def __init__(self, spec: GPTSpec, blocks: LlamaBlocks) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = spec.num_heads, blocks.kv_heads, blocks.head_dim
        own, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = _linear(spec.model_dim, own, blocks.qkv_bias)
        self.k_proj = _linear(spec.model_dim, shared, blocks.qkv_bias)
        self.v_proj = _linear(spec.model_dim, shared, blocks.qkv_bias)
        self.o_proj = _linear(own, spec.model_dim, blocks.out_bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=blocks.norm_eps) if blocks.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=blocks.norm_eps) if blocks.qk_norm else nn.Identity()

    def forward(self, x: Tensor, turn: Turn, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D). With a cache the T tokens follow those it holds, and are added to it."""
        batch, length, _ = x.shape
        query = rotate(self.q_norm(self.q_proj(x).view(batch, length, self.heads, self.head_dim)), *turn)
        key = rotate(self.k_norm(self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim)), *turn)
        value = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (B, heads, T, head_dim)
        key, value, mask, causal = with_past(cache, key, value)
        # Repeated here: not every device's attention lets heads share them.
        key, value = (one.repeat_interleave(self.heads // self.kv_heads, 1) for one in (key, value))
        out = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        return cast(Tensor, self.o_proj(out.transpose(1, 2).reshape(batch, length, -1)))


class MLP(nn.Module):
    """D -> ff_dim -> D with SwiGLU (Shazeer 2020)."""

    def __init__(self, spec: GPTSpec, blocks: LlamaBlocks) -> None:
        super().__init__()
        self.gate_proj = _linear(spec.model_dim, spec.ff_dim, blocks.mlp_bias)
        self.up_proj = _linear(spec.model_dim, spec.ff_dim, blocks.mlp_bias)
        self.down_proj = _linear(spec.ff_dim, spec.model_dim, blocks.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return cast(Tensor, self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, spec: GPTSpec, blocks: LlamaBlocks) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(spec.model_dim, eps=blocks.norm_eps)
        self.self_attn = Attention(spec, blocks)
        self.post_attention_layernorm = nn.RMSNorm(spec.model_dim, eps=blocks.norm_eps)
        self.mlp = MLP(spec, blocks)

    def forward(self, x: Tensor, turn: Turn, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.self_attn(self.input_layernorm(x), turn, cache)
        return x + cast(Tensor, self.mlp(self.post_attention_layernorm(x)))


class Body(nn.Module):
    """A range of layers with what belongs to it: embeddings first, last norm last. No projection."""

    def __init__(self, spec: GPTSpec, blocks: LlamaBlocks, layers: LayerRange) -> None:
        super().__init__()
        self.first, self.last, self.blocks = layers.first, layers.last, blocks
        if layers.first or (layers.last and spec.tie_embeddings):
            self.embed_tokens = nn.Embedding(
                spec.vocab_size, spec.model_dim, _weight=torch.empty(spec.vocab_size, spec.model_dim)
            )
        self.layers = nn.ModuleDict({str(number): Block(spec, blocks) for number in range(layers.start, layers.stop)})
        if layers.last:
            self.norm = nn.RMSNorm(spec.model_dim, eps=blocks.norm_eps)
        self.recomputes = False

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Ids (B, T) int64 in the first stage, else hidden states (B, T, D) -> (B, T, D)."""
        turn = self._turn(cache.length if cache is not None else 0, x.shape[1], x.device)
        if self.first:
            x = self.embed_tokens(x)
        recomputes = self.recomputes and cache is None and torch.is_grad_enabled()
        for number, block in enumerate(self.layers.values()):
            if recomputes:
                x = checkpoint(block, x, turn, use_reentrant=False)
            else:
                x = block(x, turn, None if cache is None else cache.layers[number])
        return self.norm(x) if self.last else x

    def _turn(self, start: int, length: int, device: torch.device) -> Turn:
        """How the positions from `start` on are turned."""
        turned = angles(self.blocks.rope, self.blocks.head_dim, torch.arange(start, start + length)).unsqueeze(1)
        return turned.cos().to(device), turned.sin().to(device)


class Llama(nn.Module):
    """Layers `layers` (None: all) of the model of `spec`, which has `llama` blocks.

    `tied`: the name of the parameter that lies in another stage too, or None.
    """

    def __init__(self, spec: GPTSpec, layers: LayerRange | None = None, seed: int = 0) -> None:
        super().__init__()
        if spec.llama is None:
            raise ValueError("the model has GPT-2's blocks")
        self.spec, self.layers = spec, layers or whole(spec.num_layers)
        first, last = self.layers.first, self.layers.last
        self.tied = TIED if spec.tie_embeddings and first != last else None
        self.model = Body(spec, spec.llama, self.layers)
        self.lm_head = _linear(spec.model_dim, spec.vocab_size, False) if last and not spec.tie_embeddings else None
        initialise(self, spec, seed)

    @property
    def head(self) -> Tensor:
        """The (V, D) projection onto the vocabulary, of the last stage."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden_shape(self, samples: int) -> tuple[int, ...]:
        """What travels between two stages for so many samples: (B, T, D)."""
        return samples, self.spec.max_seq_len, self.spec.model_dim

    def forward(self, x: Tensor) -> Tensor:
        """Ids (B, T) int64 in the first stage, else hidden states (B, T, D) -> (B, T, D)."""
        return cast(Tensor, self.model(x))

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Of the last stage: what it is given (B, T, ...) and targets (B, T) -> the mean cross-entropy, a scalar."""
        return chunked_cross_entropy(self(x).flatten(0, 1), self.head, targets.flatten())

    def next_logits(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Of the whole model: (B, T) int64 that follow what the cache holds -> logits (B, V) of the token after."""
        return functional.linear(self.model(ids, cache)[:, -1], self.head)

    def checkpoint_blocks(self) -> None:
        """As GPT's."""
        self.model.recomputes = True

    def compile_blocks(self) -> None:
        """As GPT's."""
        for block in self.model.layers.values():
            block.forward = compiled(block.forward)

    def shard_units(self) -> tuple[ShardUnit, ...]:
        """Of the whole model: embeddings, each block, last norm and loss. A tied embedding is read at both ends."""
        body = self.model
        head = body.embed_tokens if self.lm_head is None else self.lm_head
        return (
            ShardUnit(body, (body.embed_tokens,), reread=False),
            *(ShardUnit(block, (block,)) for block in body.layers.values()),
            ShardUnit(body.norm, (body.norm, head)),
        )


def _linear(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
