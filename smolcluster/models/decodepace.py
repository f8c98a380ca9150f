"""How fast this machine computes the layers of a served model: of that shape, with weights that mean nothing.

As many layers as no cache holds even a part of, or all of them: what a token costs is reading the weights from memory.
Once without a pause, and where there are others once more in turn with them: of one stream each stage works for a part
of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from smolcluster.models.cache import KVCache
from smolcluster.models.decoder import MLP, Attention, Layer, Norm, Row
from smolcluster.models.dense import Dense, dense
from smolcluster.models.rope import Rotation
from smolcluster.plan.decoding import DecodePace
from smolcluster.spec.shape import DecoderShape

# One token; a few sessions' tokens at once, which no straight line foretells; a piece of a prompt.
ROWS = (1, 2, 3, 4, 8, 128)
# Tokens that a session has behind it.
_PAST = 64
_ENOUGH_BYTES = 256 << 20
# One row, which most is said of, for almost as long as it takes until the node is asked how it does again.
_TIMES, _LEAST_S = 5, (2.0, 0.3, 0.3, 0.3, 0.3, 0.3)
_WORDS_S = 0.1


class InTurn(Protocol):
    """This machine and the others that may share the layers, one working after the other."""

    def part(self, seconds: float) -> float:
        """Which part of the layers is this machine's, if all of them take it so long."""

    def mean_s(self, work: Callable[[], object], least_s: float) -> float:
        """Seconds of this machine's work in its turn; all together for so long at least."""


@torch.inference_mode()
def measure_decoding(shape: DecoderShape, turns: InTurn | None = None) -> DecodePace:
    """In fp32, while whatever else goes on here goes on. Without `turns` there is nobody to rest for."""
    layers = _Layers(shape)
    norm, head = _norm(shape), _dense(shape.vocab_size, shape.width, bias=False)
    count = len(layers)
    each = [layers.step(rows) for rows in ROWS]
    words = [partial(_words, head, norm, torch.randn(rows, shape.width)) for rows in ROWS]
    layer_s = [
        _mean_s(partial(step, range(count)), least_s) / count for step, least_s in zip(each, _LEAST_S, strict=True)
    ]
    head_s = [_mean_s(work, _WORDS_S) for work in words]
    rested: list[float] = []
    if turns is not None:
        part = range(min(count, max(1, round(shape.layers * turns.part(layer_s[0])))))
        in_turn = [turns.mean_s(partial(step, part), least_s) for step, least_s in zip(each, _LEAST_S, strict=True)]
        rested = [seconds / len(part) / busy_s for seconds, busy_s in zip(in_turn, layer_s, strict=True)]
    return DecodePace(
        rows=ROWS,
        layer_s=tuple(layer_s),
        head_s=tuple(head_s),
        layer_params=shape.layer_params,
        table_params=shape.table_params,
        rested=tuple(rested),
    )


class _Layers:
    """Of that shape: all, or as many as are enough."""

    def __init__(self, shape: DecoderShape) -> None:
        count = min(shape.layers, max(1, _ENOUGH_BYTES // (4 * shape.layer_params)))
        self._shape = shape
        self._layers = [_layer(shape) for _ in range(count)]
        longest = _PAST + max(ROWS)
        self._rotation = Rotation(shape.rope, shape.head_dim, longest, torch.float32) if shape.rope else None

    def __len__(self) -> int:
        return len(self._layers)

    def step(self, rows: int) -> Callable[[Sequence[int]], None]:
        """What takes so many rows through the layers of those numbers: of as many sessions, or of one's prompt."""
        x = torch.randn(rows, self._shape.width)
        sessions = rows if rows < max(ROWS) else 1
        each = rows // sessions
        caches = [_with_past(self._shape, len(self), _PAST + each) for _ in range(sessions)]

        def through(numbers: Sequence[int]) -> None:
            for cache in caches:
                for part in cache.layers:
                    part.length = _PAST
            turn = self._rotation.at(torch.arange(each).repeat(sessions)) if self._rotation is not None else None
            batch = [Row(cache, each, False) for cache in caches]
            out = x
            for number in numbers:
                out = self._layers[number](out, batch, number, turn)

        return through


def _words(head: Dense, norm: Norm, x: Tensor) -> Tensor:
    return head(norm(x)).float()


def _with_past(shape: DecoderShape, layers: int, capacity: int) -> KVCache:
    cache = KVCache(layers, capacity)
    past = torch.zeros(1, shape.kv_heads, _PAST, shape.head_dim)
    for part in cache.layers:
        part.append(past, past)
    return cache


def _layer(shape: DecoderShape) -> Layer:
    own, shared = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    gated = shape.family != "gpt2"
    return Layer(
        _norm(shape),
        Attention(
            shape,
            _dense(own + 2 * shared, shape.width, shape.qkv_bias),
            _dense(shape.width, own, shape.out_bias),
            _norm(shape, shape.head_dim) if shape.qk_norm else None,
            _norm(shape, shape.head_dim) if shape.qk_norm else None,
        ),
        _norm(shape),
        MLP(
            _dense((2 if gated else 1) * shape.ff_width, shape.width, shape.mlp_bias),
            _dense(shape.width, shape.ff_width, shape.mlp_bias),
            gated=gated,
        ),
    )


def _norm(shape: DecoderShape, width: int = 0) -> Norm:
    width = width or shape.width
    return Norm(torch.ones(width), torch.zeros(width) if shape.family == "gpt2" else None, shape.norm_eps)


def _dense(outputs: int, inputs: int, bias: bool) -> Dense:
    return dense(torch.randn(outputs, inputs) * 0.02, torch.zeros(outputs) if bias else None, "fp32")


def _mean_s(work: Callable[[], object], least_s: float) -> float:
    """Seconds of one time, after one that makes room. The mean: a machine with a share of a core works and stands still
    in turns, and a median would be of those times in which it only worked.
    """
    work()
    times, began = 0, time.perf_counter()
    while times < _TIMES or time.perf_counter() - began < least_s:
        work()
        times += 1
    return (time.perf_counter() - began) / times
