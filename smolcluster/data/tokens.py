"""A prepared data folder as a trainer sees it: samples by number, read from memory-mapped files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from smolcluster.data.meta import DataMeta, Split, broken, read_meta, token_file

if TYPE_CHECKING:
    from torch import Tensor


class TokenFolder:
    """The token files of a data folder, opened read-only. Make one with `TokenFolder.open(path)`.

    Pages are read when they are touched and shared by all processes of a machine: opening costs nothing.
    """

    def __init__(self, path: Path, meta: DataMeta, tokens: dict[Split, np.ndarray]) -> None:
        self.path = path
        self.meta = meta
        self._tokens = tokens

    @classmethod
    def open(cls, path: Path) -> TokenFolder:
        """Open the folder. ConfigError when it is no data folder, of another schema, or its files are not whole."""
        meta = read_meta(path)
        dtype = np.dtype(meta.dtype).newbyteorder("<")
        counts: dict[Split, int] = {"train": meta.train_tokens, "val": meta.val_tokens}
        tokens: dict[Split, np.ndarray] = {}
        for split, count in counts.items():
            file = path / token_file(split)
            size = file.stat().st_size if file.is_file() else -1
            if size != count * dtype.itemsize:
                found = f"has {size} bytes" if size >= 0 else "is missing"
                raise broken(path, f"{file.name} {found}, {count * dtype.itemsize} were expected")
            tokens[split] = np.memmap(file, dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype)
        return cls(path, meta, tokens)

    def sample_count(self, split: Split) -> int:
        """How many samples the split has."""
        return self.meta.train_samples if split == "train" else self.meta.val_samples

    def batch(self, split: Split, indices: ArrayLike) -> tuple[Tensor, Tensor]:
        """The samples of those numbers: (x, y), int64 tensors (B, seq_len); y[:, t] is the token after x[:, t].

        IndexError for a number outside [0, sample_count).
        """
        import torch  # the controller prepares data without it

        starts = np.asarray(indices, dtype=np.int64)
        if starts.size and (starts.min() < 0 or starts.max() >= self.sample_count(split)):
            raise IndexError(f"{split} has samples 0 to {self.sample_count(split) - 1}, asked for {starts.tolist()}")
        length = self.meta.seq_len
        rows = self._tokens[split][starts[:, None] * length + np.arange(length + 1)]
        both = torch.from_numpy(rows.astype(np.int64))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def verify(self) -> None:
        """Compare every file with its hash in meta.json. ConfigError names the first that differs."""
        for name, wanted in self.meta.sha256.items():
            with (self.path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != wanted:
                raise broken(self.path, f"{name} is not what was prepared: its SHA-256 is {found}, not {wanted}")

    def require(self, global_batch: int) -> None:
        """ConfigError unless the folder can fill a step of `global_batch` samples (DataMeta.require)."""
        self.meta.require(global_batch)
