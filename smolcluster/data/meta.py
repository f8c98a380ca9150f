"""meta.json of a data folder: what is in it, where it came from, under which licence. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.base import Frozen

DATA_SCHEMA = 1
META_FILE = "meta.json"
TOKENIZER_FILE = "tokenizer.json"

Split = Literal["train", "val"]


def token_file(split: Split) -> str:
    """The name of a split's token file."""
    return f"{split}.bin"


class DataMeta(Frozen):
    """What one data folder holds.

    A sample is seq_len input tokens and the seq_len that follow each of them; samples do not overlap in their inputs.
    `dtype` is the type of one token on disk, little-endian. `eos` is the token between documents, None where the
    tokenizer has none. `sha256` maps every other file of the folder to its hash.
    """

    schema_: int = Field(default=DATA_SCHEMA, alias="schema", serialization_alias="schema")
    dataset: str
    source: str
    licence: str
    tokenizer: str
    vocab_size: int = Field(gt=0)
    eos: int | None
    seq_len: int = Field(gt=0)
    dtype: Literal["uint16", "uint32"]
    train_tokens: int = Field(ge=0)
    val_tokens: int = Field(ge=0)
    train_samples: int = Field(ge=0)
    val_samples: int = Field(ge=0)
    characters: int = Field(ge=0)
    sha256: dict[str, str]

    def to_json(self) -> str:
        """The text of meta.json."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def require(self, global_batch: int) -> None:
        """ConfigError unless the training split fills one global batch (samples) and there is a validation sample."""
        if self.train_samples >= global_batch and self.val_samples:
            return
        what = (
            f"the text is too small: {self.train_tokens:,} training and {self.val_tokens:,} validation tokens make "
            f"{self.train_samples} and {self.val_samples} samples of {self.seq_len}; one step of all ranks takes "
            f"{global_batch}, and validation at least 1"
        )
        fix = "use a longer text, or less per step: --override training.batch_size=1, --override model.max_seq_len=32"
        raise ConfigError([Problem(self.source, 0, "data.dataset", what, fix)])


def broken(folder: Path, what: str) -> ConfigError:
    """The error for a data folder that is not one, or not whole."""
    fix = "delete that folder and run `python -m smolcluster prepare` again (train.yml does it by itself)"
    return ConfigError([Problem(str(folder), 0, "", what, fix)])


def read_meta(folder: Path) -> DataMeta:
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
        return DataMeta.model_validate(raw)
    except ValidationError as error:
        raise broken(folder, f"its meta.json is not valid: {error}") from error
