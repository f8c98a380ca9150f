"""A data folder of any kind, as training sees it: numbered samples, given in batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from smolcluster.data.meta import AnyMeta, Split

if TYPE_CHECKING:
    from torch import Tensor


class Samples(Protocol):
    """The samples of a data folder, opened read-only.

    counts: what an element of y is, and so what losses are means over and speeds are told in ("tokens", "samples").
    vocab_size: entries of the tokenizer, None where there is none.
    """

    counts: Literal["tokens", "samples"]

    @property
    def meta(self) -> AnyMeta:
        """What is in the folder, where it came from, under which licence."""
        ...

    @property
    def vocab_size(self) -> int | None:
        """Entries of the tokenizer; None where there is none."""
        ...

    def sample_count(self, split: Split) -> int:
        """How many samples the split has."""
        ...

    def batch(self, split: Split, indices: ArrayLike) -> tuple[Tensor, Tensor]:
        """The samples of those numbers, (x, y): what goes in and what should come out. IndexError for no sample."""
        ...

    def require(self, global_batch: int) -> None:
        """ConfigError unless the folder can fill a step of `global_batch` samples and has one to validate on."""
        ...

    def verify(self) -> None:
        """Compare every file with its hash in meta.json. ConfigError names the first that differs."""
        ...


def open_samples(path: Path) -> Samples:
    """Open a data folder of whatever kind. ConfigError when it is none, of another schema, or not whole."""
    from smolcluster.data.images import ImageFolder
    from smolcluster.data.meta import read_meta
    from smolcluster.data.tokens import TokenFolder

    return ImageFolder.open(path) if read_meta(path).kind == "images" else TokenFolder.open(path)


def in_range(split: Split, indices: ArrayLike, count: int) -> np.ndarray:
    """The numbers as int64. IndexError unless all are in [0, count)."""
    numbers = np.asarray(indices, dtype=np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= count):
        raise IndexError(f"{split} has samples 0 to {count - 1}, asked for {numbers.tolist()}")
    return numbers
