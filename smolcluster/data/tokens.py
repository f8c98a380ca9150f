"""A prepared folder of text as a trainer sees it: samples by number, read from memory-mapped tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from smolcluster.data.meta import DataMeta, Split, broken, check_hashes, mapped, read_meta, token_file
from smolcluster.data.samples import in_range

if TYPE_CHECKING:
    from torch import Tensor


class TokenFolder:
    """The token files of a data folder, opened read-only. Make one with `TokenFolder.open(path)`.

    Pages are read when they are touched and shared by all processes of a machine: opening costs nothing.
    """

    counts: Literal["tokens", "samples"] = "tokens"

    def __init__(self, path: Path, meta: DataMeta, tokens: dict[Split, np.ndarray]) -> None:
        self.path = path
        self.meta = meta
        self.vocab_size = meta.vocab_size
        self._tokens = tokens

    @classmethod
    def open(cls, path: Path) -> TokenFolder:
        """Open the folder. ConfigError when it is no folder of text, of another schema, or its files are not whole."""
        meta = read_meta(path)
        if not isinstance(meta, DataMeta):
            raise broken(path, f"holds {meta.kind}, and text was expected")
        dtype = np.dtype(meta.dtype).newbyteorder("<")
        tokens: dict[Split, np.ndarray] = {
            "train": mapped(path, token_file("train"), dtype, (meta.train_tokens,)),
            "val": mapped(path, token_file("val"), dtype, (meta.val_tokens,)),
        }
        return cls(path, meta, tokens)

    def sample_count(self, split: Split) -> int:
        """How many samples the split has."""
        return self.meta.train_samples if split == "train" else self.meta.val_samples

    def batch(self, split: Split, indices: ArrayLike) -> tuple[Tensor, Tensor]:
        """The samples of those numbers: (x, y), int64 tensors (B, seq_len); y[:, t] is the token after x[:, t].

        IndexError for a number outside [0, sample_count).
        """
        import torch  # the controller prepares data without it

        starts = in_range(split, indices, self.sample_count(split))
        length = self.meta.seq_len
        rows = self._tokens[split][starts[:, None] * length + np.arange(length + 1)]
        both = torch.from_numpy(rows.astype(np.int64))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def verify(self) -> None:
        """Compare every file with its hash in meta.json. ConfigError names the first that differs."""
        check_hashes(self.path, self.meta)

    def require(self, global_batch: int) -> None:
        """ConfigError unless the folder can fill a step of `global_batch` samples (FolderMeta.require)."""
        self.meta.require(global_batch)
