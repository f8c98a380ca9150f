"""A prepared folder of pictures as a trainer sees it, and how one is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from smolcluster.data.building import write_file
from smolcluster.data.meta import META_FILE, ImageMeta, Split, broken, check_hashes, mapped, read_meta
from smolcluster.data.pictures import Labelled, Pictures
from smolcluster.data.samples import in_range
from smolcluster.files import hash_of

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 256


def pixel_file(split: Split) -> str:
    """The name of the file of a split's pictures, one behind the other."""
    return f"{split}.pixels.bin"


def label_file(split: Split) -> str:
    """The name of the file of a split's labels."""
    return f"{split}.labels.bin"


class ImageFolder:
    """The pictures of a data folder, opened read-only. Make one with `ImageFolder.open(path)`."""

    counts: Literal["tokens", "samples"] = "samples"
    vocab_size = None

    def __init__(self, path: Path, meta: ImageMeta, splits: dict[Split, Labelled]) -> None:
        self.path = path
        self.meta = meta
        self._splits = splits
        # What each of the 256 levels of grey is to a model: a lookup, and every machine has the same bits.
        self._levels = ((np.arange(LEVELS) / (LEVELS - 1) - meta.mean) / meta.std).astype(np.float32)

    @classmethod
    def open(cls, path: Path) -> ImageFolder:
        """Open the folder. ConfigError when it is no folder of pictures, or its files are not whole."""
        meta = read_meta(path)
        if not isinstance(meta, ImageMeta):
            raise broken(path, f"holds {meta.kind}, and pictures were expected")
        counts: dict[Split, int] = {"train": meta.train_samples, "val": meta.val_samples}
        byte = np.dtype(np.uint8)
        splits = {
            split: Labelled(
                mapped(path, pixel_file(split), byte, (count, meta.pixels)),
                mapped(path, label_file(split), byte, (count,)),
            )
            for split, count in counts.items()
        }
        return cls(path, meta, splits)

    def sample_count(self, split: Split) -> int:
        """How many samples the split has."""
        return self.meta.train_samples if split == "train" else self.meta.val_samples

    def batch(self, split: Split, indices: ArrayLike) -> tuple[Tensor, Tensor]:
        """The samples of those numbers: x float32 (B, pixels), of mean 0 and deviation 1; y int64 (B,), the classes.

        IndexError for a number outside [0, sample_count).
        """
        import torch  # the controller prepares data without it

        numbers = in_range(split, indices, self.sample_count(split))
        chosen = self._splits[split]
        x = torch.from_numpy(self._levels[chosen.pixels[numbers]])
        return x, torch.from_numpy(chosen.labels[numbers].astype(np.int64))

    def verify(self) -> None:
        """Compare every file with its hash in meta.json. ConfigError names the first that differs."""
        check_hashes(self.path, self.meta)

    def require(self, global_batch: int) -> None:
        """ConfigError unless the folder can fill a step of `global_batch` samples (FolderMeta.require)."""
        self.meta.require(global_batch)


def write_images(folder: Path, pictures: Pictures) -> ImageMeta:
    """Write every file of the data folder; meta.json last."""
    splits: dict[Split, Labelled] = {"train": pictures.train, "val": pictures.validation}
    names = []
    for split, part in splits.items():
        for name, values in ((pixel_file(split), part.pixels), (label_file(split), part.labels)):
            write_file(folder / name, values.tobytes())
            names.append(name)
    mean, std = _moments(pictures.train.pixels)
    meta = ImageMeta(
        dataset=pictures.dataset,
        source=pictures.source,
        licence=pictures.licence,
        train_samples=len(pictures.train.labels),
        val_samples=len(pictures.validation.labels),
        pixels=pictures.train.pixels.shape[1],
        classes=pictures.classes,
        mean=mean,
        std=std,
        sha256={name: hash_of(folder / name) for name in names},
    )
    write_file(folder / META_FILE, meta.to_json().encode())
    return meta


def _moments(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of the pixels as numbers from 0 to 1. Out of whole numbers: the same everywhere."""
    counts = np.bincount(pixels.reshape(-1), minlength=LEVELS)
    total = int(counts.sum()) or 1
    first = sum(level * int(count) for level, count in enumerate(counts))
    second = sum(level * level * int(count) for level, count in enumerate(counts))
    mean = first / total
    variance = (second * total - first * first) / (total * total)
    return mean / (LEVELS - 1), (variance**0.5 or LEVELS - 1) / (LEVELS - 1)
