"""A stage's layers, said once for every format that they are exported to.

`emit` walks the layers of a models.decoder.Decoder, which gives weights and order, and asks an `Ops` for one operation
after the other; coreml.py and onnxfile.py are such. One session at a time: batch 1, T tokens, L positions in its cache.
Attention has the heads that share keys and values side by side, so nothing is repeated: (kv_heads, groups * T, d).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from smolcluster.models.decoder import MLP, Attention, Decoder, Norm
from smolcluster.models.dense import Dense, Full

# What a program's operation gives: a coremltools Var, or the name of an ONNX value.
Value = Any
Array = np.ndarray[Any, Any]
# Added to the scores of positions that a token must not see; half precision reaches -65504.
UNSEEN = -30000.0


class Ops(Protocol):
    """The operations of one format. Arrays are float32: the format rounds them to what it computes in."""

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """(..., in) with a weight (out, in) -> (..., out)."""

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        """Over the last axis."""

    def rms_norm(self, x: Value, weight: Array, eps: float) -> Value:
        """Over the last axis."""

    def gelu(self, x: Value) -> Value:
        """The tanh approximation."""

    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)."""

    def softmax(self, x: Value) -> Value:
        """Over the last axis."""

    def add(self, x: Value, y: Value) -> Value:
        """With broadcasting."""

    def mul(self, x: Value, y: Value | float) -> Value:
        """With broadcasting."""

    def matmul(self, x: Value, y: Value, transposed: bool = False) -> Value:
        """x @ y, or x @ y^T, of the last two axes."""

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """With one -1 for what depends on T."""

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """The axes in this order."""

    def part(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """`start` to `stop` of an axis."""

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """One after the other."""

    def last(self, x: Value) -> Value:
        """(1, T, width) -> (1, 1, width), of the last token."""

    def rows(self, table: Array) -> Value:
        """(positions, width) -> (T, width), those of the tokens' own positions."""

    def mask(self) -> Value:
        """(T, L): 0 where a token sees a position, its own or an earlier one; UNSEEN where it does not."""

    def append(self, layer: int, key: Value, value: Value) -> tuple[Value, Value]:
        """(kv_heads, T, d) each go into the cache of the stage's `layer`-th layer; all L of it."""


def emit(ops: Ops, decoder: Decoder, x: Value, context: int) -> Value:
    """(1, T, width) -> (1, T, width); of the last stage (1, 1, vocabulary), after the last token.

    ValueError for the first stage, which has the embeddings: it is the head's, whose tokens travel to nobody.
    """
    if decoder.embedding is not None:
        raise ValueError("the first stage is the head's own; a tablet computes layers after it")
    shape = decoder.shape
    turn = None
    if decoder.rotation is not None:
        cos, sin = decoder.rotation.table(context)
        turn = ops.rows(array(cos)), ops.rows(array(sin))
    mask = ops.concat([ops.mask()] * (shape.heads // shape.kv_heads), 0)
    for number, layer in enumerate(decoder.layers):
        x = ops.add(x, _attention(ops, layer.attention, _norm(ops, layer.attention_norm, x), number, mask, turn))
        x = ops.add(x, _mlp(ops, layer.mlp, _norm(ops, layer.mlp_norm, x)))
    if decoder.norm is None or decoder.head is None:
        return x
    return _dense(ops, decoder.head, _norm(ops, decoder.norm, ops.last(x)))


def array(tensor: Tensor) -> Array:
    """Its values in float32."""
    values: Array = tensor.detach().float().contiguous().numpy()
    return values


def full(dense: Dense) -> Full:
    """A layer of weights as they are. ValueError for one that is quantised: the export rounds by itself."""
    if not isinstance(dense, Full):
        raise ValueError("export from a stage that was loaded at fp32")
    return dense


def _attention(
    ops: Ops, attention: Attention, x: Value, layer: int, mask: Value, turn: tuple[Value, Value] | None
) -> Value:
    heads, shared, width = attention.shape.heads, attention.shape.kv_heads, attention.shape.head_dim
    both = ops.reshape(_dense(ops, attention.qkv, x), (-1, heads + 2 * shared, width))
    both = ops.transpose(both, (1, 0, 2))  # (heads + 2 kv_heads, T, d)
    query = ops.part(both, 0, 0, heads)
    key = ops.part(both, 0, heads, heads + shared)
    value = ops.part(both, 0, heads + shared, heads + 2 * shared)
    if attention.q_norm is not None and attention.k_norm is not None:
        query, key = _norm(ops, attention.q_norm, query), _norm(ops, attention.k_norm, key)
    if turn is not None:
        query, key = _rotate(ops, query, width, turn), _rotate(ops, key, width, turn)
    keys, values = ops.append(layer, key, value)  # (kv_heads, L, d)
    # Scaled before the product: half precision would overflow after it.
    query = ops.reshape(ops.mul(query, 1 / math.sqrt(width)), (shared, -1, width))
    weights = ops.softmax(ops.add(ops.matmul(query, keys, transposed=True), mask))  # (kv_heads, groups * T, L)
    seen = ops.reshape(ops.matmul(weights, values), (heads, -1, width))
    seen = ops.reshape(ops.transpose(seen, (1, 0, 2)), (1, -1, heads * width))
    return _dense(ops, attention.out, seen)


def _rotate(ops: Ops, x: Value, width: int, turn: tuple[Value, Value]) -> Value:
    """models.rope.rotate."""
    half = width // 2
    turned = ops.concat([ops.mul(ops.part(x, 2, half, width), -1.0), ops.part(x, 2, 0, half)], 2)
    return ops.add(ops.mul(x, turn[0]), ops.mul(turned, turn[1]))


def _mlp(ops: Ops, mlp: MLP, x: Value) -> Value:
    up = _dense(ops, mlp.up, x)
    if not mlp.gated:
        return _dense(ops, mlp.down, ops.gelu(up))
    width = full(mlp.up).weight.shape[0] // 2
    gate = ops.silu(ops.part(up, 2, 0, width))
    return _dense(ops, mlp.down, ops.mul(gate, ops.part(up, 2, width, 2 * width)))


def _norm(ops: Ops, norm: Norm, x: Value) -> Value:
    if norm.bias is None:
        return ops.rms_norm(x, array(norm.weight), norm.eps)
    return ops.layer_norm(x, array(norm.weight), array(norm.bias), norm.eps)


def _dense(ops: Ops, dense: Dense, x: Value) -> Value:
    layer = full(dense)
    return ops.linear(x, array(layer.weight), None if layer.bias is None else array(layer.bias))
