"""Randomness that follows from (seed, step, rank) alone, so that a resumed run draws what the undisturbed one drew."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed of its own for every (seed, step, rank): hashed, so that neighbours share no pattern."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators (CPU and accelerators) for a training step of a rank: dropout masks come from them."""
    torch.manual_seed(derive_seed(seed, step, rank))
