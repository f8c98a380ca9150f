"""A model cut into stages: half-open ranges of layers, and which tensors of a checkpoint belong to which stage.

The first stage has the embeddings besides, the last one the final norm and the projection onto the vocabulary. Layer
numbers are the whole model's, everywhere. It knows names, not tensors; training and serving both use it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# `transformer.h.3.attn...` is GPT-2's way of naming a layer, `model.layers.3.mlp...` everybody else's.
_LAYER = re.compile(r"(?:^|\.)(?:h|layers)\.(\d+)\.")
_EMBEDDINGS = ("wte.", "wpe.", "embed_tokens.")


@dataclass(frozen=True, order=True)
class LayerRange:
    """Layers `start` to `stop`, half-open, of a model of `layers`. ValueError for an empty range or one outside."""

    start: int
    stop: int
    layers: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= self.layers:
            raise ValueError(f"{self.start}:{self.stop} is no half-open range of {self.layers} layers")

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    @property
    def first(self) -> bool:
        """Whether the embeddings are in it."""
        return self.start == 0

    @property
    def last(self) -> bool:
        """Whether the final norm and the head are in it."""
        return self.stop == self.layers

    @property
    def size(self) -> int:
        """How many layers it has."""
        return self.stop - self.start

    def holds(self, name: str, tied: bool = False) -> bool:
        """Whether a checkpoint's tensor belongs to this stage. A tied embedding is needed at both ends."""
        layer = _LAYER.search(name)
        if layer is not None:
            return self.start <= int(layer.group(1)) < self.stop
        if any(mark in name for mark in _EMBEDDINGS):
            return self.first or (self.last and tied and "wpe." not in name)
        return self.last


def whole(layers: int) -> LayerRange:
    """The range of a model that is not split."""
    return LayerRange(0, layers, layers)


def cut(bounds: Sequence[tuple[int, int]], layers: int) -> tuple[LayerRange, ...]:
    """The stages of `(start, stop)` pairs. ValueError unless they follow each other from layer 0 to the last."""
    expected = 0
    for start, stop in bounds:
        if start != expected or stop <= start:
            raise ValueError(f"{start}:{stop} does not go on at layer {expected}; ranges are half-open, as 0:4 and 4:8")
        expected = stop
    if expected != layers:
        raise ValueError(f"the stages end at layer {expected}, the model has {layers}")
    return tuple(LayerRange(start, stop, layers) for start, stop in bounds)
