"""Rotary positions: each pair of a head's dimensions is turned by an angle that grows with the token's position.

Source: Su et al. 2021, "RoFormer"; halves instead of neighbours form the pairs, as in Hugging Face's checkpoints. The
stretch for long contexts called llama3 is that of Llama 3.1's release.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smolcluster.spec.shape import Rope


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """(head_dim / 2,) float32: radians per position of each pair."""
    turns = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.scaling == "linear":
        return turns / rope.factor
    if rope.scaling == "llama3":
        wavelength = 2 * math.pi / turns
        # Short waves stay, long ones are stretched, those between are blended.
        blend = (rope.original_positions / wavelength - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        blend = blend.clamp(0, 1)
        return (1 - blend) * turns / rope.factor + blend * turns
    return turns


def angles(rope: Rope, head_dim: int, positions: Tensor) -> Tensor:
    """(N, head_dim) float32: by how much the dimensions are turned at N positions; the halves are alike."""
    half = torch.outer(positions.float(), frequencies(rope, head_dim))
    return torch.cat((half, half), dim=-1)


class Rotation:
    """Angles of the positions 0 to `positions`, made once per stage, in `kind`."""

    def __init__(self, rope: Rope, head_dim: int, positions: int, kind: torch.dtype) -> None:
        both = angles(rope, head_dim, torch.arange(positions))
        self._cos, self._sin = both.cos().to(kind), both.sin().to(kind)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, (N, 1, head_dim) each, of N positions."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def table(self, positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin, (positions, head_dim) each, of the first ones."""
        return self._cos[:positions], self._sin[:positions]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., N, heads, head_dim) turned."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin
