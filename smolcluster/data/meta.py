"""meta.json of a data folder: what is in it, where it came from, under which licence. No torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from smolcluster.errors import ConfigError, Problem
from smolcluster.files import hash_of
from smolcluster.spec.base import Frozen

DATA_SCHEMA = 1
META_FILE = "meta.json"
TOKENIZER_FILE = "tokenizer.json"

Split = Literal["train", "val"]


def token_file(split: Split) -> str:
    """The name of a split's token file."""
    return f"{split}.bin"


class FolderMeta(Frozen):
    """What every data folder says. `sha256` maps every other file of the folder to its hash."""

    schema_: int = Field(default=DATA_SCHEMA, alias="schema", serialization_alias="schema")
    dataset: str
    source: str
    licence: str
    train_samples: int = Field(ge=0)
    val_samples: int = Field(ge=0)
    sha256: dict[str, str]

    def to_json(self) -> str:
        """The text of meta.json."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def require(self, global_batch: int) -> None:
        """ConfigError unless the training split fills one global batch (samples) and there is a validation sample."""
        if self.train_samples >= global_batch and self.val_samples:
            return
        what, fix = self._too_small(global_batch)
        raise ConfigError([Problem(self.source, 0, "data.dataset", what, fix)])

    def _too_small(self, global_batch: int) -> tuple[str, str]:
        """What is wrong with a folder that cannot fill a step, and what helps."""
        raise NotImplementedError


class DataMeta(FolderMeta):
    """A folder of tokens.

    A sample is seq_len input tokens and the seq_len that follow each of them; samples do not overlap in their inputs.
    `dtype` is the type of one token on disk, little-endian. `eos` is the token between documents, None where the
    tokenizer has none.
    """

    kind: Literal["text"] = "text"
    tokenizer: str
    vocab_size: int = Field(gt=0)
    eos: int | None
    seq_len: int = Field(gt=0)
    dtype: Literal["uint16", "uint32"]
    train_tokens: int = Field(ge=0)
    val_tokens: int = Field(ge=0)
    characters: int = Field(ge=0)

    def _too_small(self, global_batch: int) -> tuple[str, str]:
        what = (
            f"the text is too small: {self.train_tokens:,} training and {self.val_tokens:,} validation tokens make "
            f"{self.train_samples} and {self.val_samples} samples of {self.seq_len}; one step of all ranks takes "
            f"{global_batch}, and validation at least 1"
        )
        fix = "use a longer text, or less per step: --override training.batch_size=1, --override model.max_seq_len=32"
        return what, fix


class ImageMeta(FolderMeta):
    """A folder of pictures, each with the class it shows.

    A picture is `pixels` bytes, 0 to 255; its label one byte, below `classes`. `mean` and `std` are of the training
    split's pixels as numbers from 0 to 1: a model sees (pixel / 255 - mean) / std.
    """

    kind: Literal["images"] = "images"
    pixels: int = Field(gt=0)
    classes: int = Field(gt=0, le=256)
    mean: float
    std: float = Field(gt=0)

    def _too_small(self, global_batch: int) -> tuple[str, str]:
        what = (
            f"there are too few pictures: {self.train_samples:,} to train on and {self.val_samples:,} to validate on; "
            f"one step of all ranks takes {global_batch}, and validation at least 1"
        )
        return what, "use the whole data set, or less per step: --override training.batch_size=1"


AnyMeta = DataMeta | ImageMeta


def broken(folder: Path, what: str) -> ConfigError:
    """The error for a data folder that is not one, or not whole."""
    fix = "delete that folder and run `python -m smolcluster prepare` again (train.yml does it by itself)"
    return ConfigError([Problem(str(folder), 0, "", what, fix)])


def read_meta(folder: Path) -> AnyMeta:
    """The meta.json of a data folder. ConfigError when there is none, or it is not one we can read."""
    try:
        raw = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise broken(folder, "is not a data folder: it has no meta.json") from None
    except (OSError, ValueError) as error:
        raise broken(folder, f"its meta.json cannot be read: {error}") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != DATA_SCHEMA:
        raise broken(folder, f"has schema {schema!r}, this smolcluster reads {DATA_SCHEMA}")
    try:
        return (ImageMeta if raw.get("kind") == "images" else DataMeta).model_validate(raw)
    except ValidationError as error:
        raise broken(folder, f"its meta.json is not valid: {error}") from error


def check_hashes(folder: Path, meta: FolderMeta) -> None:
    """Compare every file with its hash in meta.json. ConfigError names the first that differs."""
    for name, wanted in meta.sha256.items():
        found = hash_of(folder / name)
        if found != wanted:
            raise broken(folder, f"{name} is not what was prepared: its SHA-256 is {found}, not {wanted}")


def mapped(folder: Path, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A file of the folder as a read-only array; pages are read when touched. ConfigError if its size is another."""
    file, wanted = folder / name, math.prod(shape) * dtype.itemsize
    size = file.stat().st_size if file.is_file() else -1
    if size != wanted:
        found = f"has {size} bytes" if size >= 0 else "is missing"
        raise broken(folder, f"{name} {found}, {wanted} were expected")
    return np.memmap(file, dtype, mode="r", shape=shape) if wanted else np.empty(shape, dtype)
