"""In which order a stage computes its micro-batches: one forward, one backward (Narayanan et al., arXiv:1806.03377,
in the synchronous form of arXiv:2104.04473). Pure.

A stage first goes forward as often as there are stages behind it, so that those have work; then it takes turns, which
frees the activations of the oldest micro-batch before those of a new one are made; then it goes back through what is
left. At most `stages - stage` micro-batches are alive in a stage, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Turn:
    """One micro-batch's way through one stage, there or back."""

    way: Literal["forward", "backward"]
    micro: int


def turns(stage: int, stages: int, micros: int) -> Iterator[Turn]:
    """What stage number `stage` of `stages` does in a step of `micros` micro-batches."""
    ahead = min(stages - stage - 1, micros)
    for micro in range(ahead):
        yield Turn("forward", micro)
    for micro in range(micros - ahead):
        yield Turn("forward", ahead + micro)
        yield Turn("backward", micro)
    for micro in range(micros - ahead, micros):
        yield Turn("backward", micro)
