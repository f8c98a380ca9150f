"""Norms of the gradient by layer, from those by parameter (training.track_gradients). Pure."""

from __future__ import annotations

import math

from smolcluster.observe.curves import Points, thinned
from smolcluster.observe.report import RunStory


def layer_norms(story: RunStory) -> dict[str, Points]:
    """By layer, in order, the norm of the mean gradient over the steps it was measured at."""
    records = max((rank.gradients for rank in story.ranks), key=len, default=())
    squares: dict[str, dict[int, float]] = {}
    for record in records:
        for name, norm in record.norms.items():
            steps = squares.setdefault(layer_of(name), {})
            steps[record.step] = steps.get(record.step, 0.0) + norm**2
    return {
        layer: thinned([(float(step), math.sqrt(total)) for step, total in sorted(squares[layer].items())])
        for layer in sorted(squares, key=_in_order)
    }


def layer_of(name: str) -> str:
    """The layer a parameter belongs to: h.3 for h.3.attn.c_attn.weight, ln_f for ln_f.weight."""
    parts = name.split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
    return ".".join(parts[:-1] if numbered is None else parts[: numbered + 1]) or name


def _in_order(layer: str) -> list[tuple[bool, int, str]]:
    """Layer 10 comes after layer 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in layer.split(".")]
