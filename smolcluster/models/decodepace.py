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
# A node is asked how it does every three seconds.
_TIMES, _LEAST_S = 5, 3.0


class InTurn(Protocol):
    """This machine and the others that may share the layers, one working after the other."""

    def part(self, seconds: float) -> float:
        """Which part of the layers is this machine's, if all of them take it so long."""

    def means(self, works: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each of this machine's works in its turn; of all machines the same number of them."""


@torch.inference_mode()
def measure_decoding(shape: DecoderShape, turns: InTurn | None = None) -> DecodePace:
    """In fp32, while whatever else goes on here goes on. Without `turns` there is nobody to rest for."""
    layers = _Layers(shape)
    norm, head = _norm(shape), _dense(shape.vocab_size, shape.width, bias=False)
    count = len(layers)
    each = [layers.step(rows) for rows in ROWS]
    words = [partial(_words, head, norm, torch.randn(rows, shape.width)) for rows in ROWS]
    took = _means([*(partial(step, range(count)) for step in each), *words])
    layer_s, head_s = [seconds / count for seconds in took[: len(ROWS)]], took[len(ROWS) :]
    rested: list[float] = []
    if turns is not None:
        part = min(count, max(1, round(shape.layers * turns.part(layer_s[0]))))
        in_turn = turns.means([partial(step, range(part)) for step in each])
        rested = [seconds / part / busy_s for seconds, busy_s in zip(in_turn, layer_s, strict=True)]
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


def _means(works: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of each, after one time that makes room. The mean: a machine with a share of a core works and stands
    still in turns, and a median would be of those times in which it only worked. One after the other, again and again:
    what else a machine does now and then, as when it is asked how it does, is a part of all of them alike.
    """
    seconds = [0.0] * len(works)
    for work in works:
        work()
    times, began = 0, time.perf_counter()
    while times < _TIMES or time.perf_counter() - began < _LEAST_S:
        for number, work in enumerate(works):
            before = time.perf_counter()
            work()
            seconds[number] += time.perf_counter() - before
        times += 1
    return [took / times for took in seconds]
