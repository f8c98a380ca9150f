"""Small IDX files of pictures in four clear kinds, as MNIST's are laid out; synthetic, and called so."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(count: int, seed: int, size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a bright quarter each, in noise; the label says which. A net learns them in a few steps."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 4, count).astype(np.uint8)
    images = chance.integers(0, 90, (count, size, size)).astype(np.uint8)
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        row, column = half * (label // 2), half * (label % 2)
        image[row : row + half, column : column + half] += 120
    return images, labels


def write_idx(folder: Path, train: int = 300, test: int = 60, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for (split, names), count in zip(NAMES.items(), (train, test), strict=True):
        for name, array in zip(names, pictures(count, seed=len(split)), strict=True):
            data = idx(array)
            (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder
