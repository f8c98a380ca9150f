"""The decoder that is served, or a stage of it: GPT-2's and Llama's blocks in one form, without autograd.

Rows of several sessions go through the large matrices together, one after the other in one (N, width) tensor; only
attention looks at each session alone, for each has its own keys and values. Query, key and value are one matrix, gate
and up another: a token's time is the number of calls and the bytes of the weights. Built by stage_weights.py.
models/gpt.py is the GPT that is trained; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from smolcluster.models.cache import KVCache
from smolcluster.models.dense import Dense
from smolcluster.models.partition import LayerRange
from smolcluster.models.rope import Rotation, rotate
from smolcluster.spec.shape import DecoderShape


class Row(NamedTuple):
    """`length` tokens that follow what `cache` holds. `wanted`: the logits after the last one are asked for."""

    cache: KVCache
    length: int
    wanted: bool


@dataclass(frozen=True)
class Norm:
    """LayerNorm, or RMSNorm where there is no bias."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), normalised over D."""
        if self.bias is None:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Attention:
    """Causal attention with `kv_heads` groups of heads that share keys and values (Ainslie et al. 2023)."""

    shape: DecoderShape
    qkv: Dense
    out: Dense
    q_norm: Norm | None = None
    k_norm: Norm | None = None

    def __call__(self, x: Tensor, rows: Sequence[Row], layer: int, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """(N, width) -> (N, width); `layer` is the number within the rows' caches."""
        heads, kv_heads, width = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        qkv = self.qkv(x).view(len(x), heads + 2 * kv_heads, width)
        query, key, value = qkv.split((heads, kv_heads, kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        seen, start = [], 0
        for row in rows:
            part = slice(start, start + row.length)
            keys, values = row.cache.layers[layer].append(
                key[part].transpose(0, 1).unsqueeze(0), value[part].transpose(0, 1).unsqueeze(0)
            )
            seen.append(_attend(query[part], keys, values))
            start += row.length
        return self.out(seen[0] if len(seen) == 1 else torch.cat(seen))


def _attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(n, heads, d) over (1, kv_heads, L, d), of which the last n are the queries' own -> (n, heads * d)."""
    count, heads, width = query.shape
    groups, length = keys.shape[1], keys.shape[2]
    if count == 1:
        # One token sees everything: the heads of a group are queries of one attention, and nothing is repeated.
        grouped = query.reshape(1, groups, heads // groups, width)
        return functional.scaled_dot_product_attention(grouped, keys, values).reshape(1, heads * width)
    past, mask = length - count, None
    if past:
        # SDPA's own causal mask is aligned to the upper left: with a past it must be given.
        mask = torch.ones(count, length, dtype=torch.bool).tril(past)
    out = functional.scaled_dot_product_attention(
        query.transpose(0, 1).unsqueeze(0), keys, values, mask, is_causal=not past, enable_gqa=groups != heads
    )
    return out.squeeze(0).transpose(0, 1).reshape(count, heads * width)


@dataclass(frozen=True)
class MLP:
    """GPT-2's tanh-GELU; or SwiGLU (Shazeer 2020), whose gate and up come from one matrix."""

    up: Dense
    down: Dense
    gated: bool

    def __call__(self, x: Tensor) -> Tensor:
        """(N, width) -> (N, width)."""
        if not self.gated:
            return self.down(functional.gelu(self.up(x), approximate="tanh"))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


@dataclass(frozen=True)
class Layer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: MLP

    def __call__(self, x: Tensor, rows: Sequence[Row], layer: int, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """(N, width) -> (N, width)."""
        x = x + self.attention(self.attention_norm(x), rows, layer, turn)
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True)
class Embedding:
    """Words, and learned positions where the model has them."""

    words: Tensor
    positions: Tensor | None

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(N,) ids and their (N,) positions -> (N, width)."""
        x = self.words[ids]
        return x if self.positions is None else x + self.positions[positions]


@dataclass(frozen=True)
class Decoder:
    """One stage. `embedding` is the first stage's, `norm` and `head` the last one's."""

    shape: DecoderShape
    range: LayerRange
    kind: torch.dtype
    layers: tuple[Layer, ...]
    rotation: Rotation | None
    embedding: Embedding | None
    norm: Norm | None
    head: Dense | None

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for one session of at most `capacity` tokens."""
        return KVCache(len(self.layers), capacity)

    def forget(self, cache: KVCache) -> None:
        """The session of that cache is over. Its memory goes with it: there is nothing to do."""

    @torch.inference_mode()
    def __call__(self, x: Tensor, rows: Sequence[Row]) -> Tensor:
        """The first stage takes (N,) int64 ids, the others (N, width); N is the sum of the rows' lengths.

        Gives (N, width), the last stage (W, vocabulary) float32, a row for each that is wanted. Caches grow.
        """
        positions = self._positions(rows)
        if self.embedding is not None:
            x = self.embedding(x, positions)
        turn = self.rotation.at(positions) if self.rotation is not None else None
        for number, layer in enumerate(self.layers):
            x = layer(x, rows, number, turn)
        if self.norm is None or self.head is None:
            return x
        lasts = torch.tensor([row.length for row in rows]).cumsum(0) - 1
        wanted = [number for number, row in enumerate(rows) if row.wanted]
        if not wanted:
            return torch.empty(0, self.shape.vocab_size)
        return self.head(self.norm(x[lasts[wanted]])).float()

    @staticmethod
    def _positions(rows: Sequence[Row]) -> Tensor:
        if all(row.length == 1 for row in rows):
            return torch.tensor([row.cache.length for row in rows])
        return torch.cat([torch.arange(row.cache.length, row.cache.length + row.length) for row in rows])
