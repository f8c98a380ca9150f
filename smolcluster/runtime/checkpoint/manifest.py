"""What a checkpoint is: a manifest, written last, which names every file, its hash and what lies in it. No torch.

    <run>/checkpoints/step-00000050.json                                    on rank 0's node: makes it exist
    <run>/nodes/<node>/checkpoints/step-00000050/manifest.json              a copy on each node
    <run>/nodes/<node>/checkpoints/step-00000050/rank-1.safetensors         what rank 1 owns
    <run>/nodes/<node>/checkpoints/step-00000050/copy-of-rank-0.safetensors another node's, with replicas

A manifest may come from anybody's folder: it holds names and numbers, checked here, and nothing that is executed.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from pydantic import Field, ValidationError

from smolcluster.runtime.runfolder import GradientAccount, RunFolder
from smolcluster.spec.base import Frozen
from smolcluster.spec.run import ModelSpec

CHECKPOINT_SCHEMA = 1
MANIFEST_COPY = "manifest.json"
STEP_NAME = re.compile(r"step-(\d{8,})")
SHARD_NAME = re.compile(r"^(copy-of-)?rank-\d+\.safetensors$")


class BadManifestError(ValueError):
    """A manifest that cannot be used: the text says why, and what to do."""


class Entry(Frozen):
    """One slice in a file: the box (`offset`, `sizes`) of the tensor `name` of that `shape`, stored as `key`.

    `dtype` is safetensors' word for it.
    """

    name: str
    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    sizes: tuple[int, ...]


class Place(Frozen):
    """Where a file lies: in this step's folder of a node."""

    node: str = Field(pattern=r"^[^/\\\x00]+$")
    name: str = Field(pattern=SHARD_NAME.pattern)

    @staticmethod
    def is_name(name: str) -> bool:
        """Whether a file could be one of ours by its name."""
        return SHARD_NAME.fullmatch(name) is not None


class ShardFile(Frozen):
    """What one rank owned, and everywhere it lies."""

    rank: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str
    places: tuple[Place, ...] = Field(min_length=1)
    entries: tuple[Entry, ...]


class Progress(Frozen):
    """How far the run was: what its account goes on from. `tokens` are each rank's."""

    tokens: tuple[int, ...]
    seconds: float
    loss_first: float | None
    loss_last: float | None
    val_loss_first: float | None
    val_loss: float | None
    val_accuracy: float | None = None


class Cursor(Frozen):
    """The position in the data, all of which follows from these: `step` steps of `global_batch` samples were taken."""

    epoch: int
    step: int
    seed: int
    global_batch: int
    dataset: str


class StarNote(Frozen):
    """Of a run with a server: which samples are done. `front`: all before it have been given out; `back`: those of
    them, as (first, samples), whose gradients were not applied. The rest is the ledger's (strategies/star/ledger.py).
    """

    front: int = Field(ge=0)
    back: tuple[tuple[int, int], ...]
    gradients: GradientAccount
    seen: dict[int, tuple[int, int]] = Field(default_factory=dict)


class Manifest(Frozen):
    """One checkpoint. `val_loss` was measured at this very step; None if none was.

    `digest` is the SHA-256 of the text with an empty digest.
    """

    schema_: int = Field(default=CHECKPOINT_SCHEMA, alias="schema", serialization_alias="schema")
    run_id: str
    generation: int
    step: int = Field(ge=0)
    total_steps: int
    world_size: int = Field(gt=0)
    strategy: str
    stage: int
    plan_digest: str
    model: ModelSpec
    val_loss: float | None
    progress: Progress
    cursor: Cursor
    files: tuple[ShardFile, ...]
    star: StarNote | None = Field(default=None, exclude_if=lambda note: note is None)
    digest: str = ""

    def to_json(self) -> str:
        """The text that is written, with its digest."""
        bare = self.model_copy(update={"digest": ""})._text()
        return self.model_copy(update={"digest": hashlib.sha256(bare.encode()).hexdigest()})._text()

    def _text(self) -> str:
        return self.model_dump_json(by_alias=True) + "\n"


def parse_manifest(text: str) -> Manifest:
    """The manifest in a text. BadManifestError if it is damaged, or of a schema that is not known here."""
    try:
        value = json.loads(text)
    except ValueError:
        raise BadManifestError("it is damaged: it is no JSON") from None
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != CHECKPOINT_SCHEMA:
        newer = isinstance(schema, int) and schema > CHECKPOINT_SCHEMA
        advice = "upgrade smolcluster on every node: a newer one wrote it" if newer else "it is no checkpoint of ours"
        raise BadManifestError(f"it has schema {schema!r}, this smolcluster reads {CHECKPOINT_SCHEMA}: {advice}")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadManifestError(f"it is damaged: {where}: {first['msg']}") from None
    if any(place.node in (".", "..") for file in manifest.files for place in file.places):
        raise BadManifestError("it names a file outside of its folder. Do not use it")
    if manifest.to_json() != text:
        raise BadManifestError("it is damaged: its digest is not that of its text")
    return manifest


def step_name(step: int) -> str:
    """How a step is called in the names of files and folders."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step in such a name; None if it is none."""
    found = STEP_NAME.fullmatch(name)
    return int(found[1]) if found else None


def manifest_file(folder: RunFolder, step: int) -> Path:
    """The manifest that makes a checkpoint exist."""
    return folder.checkpoints / f"{step_name(step)}.json"


def node_folder(folder: RunFolder, node: str) -> Path:
    """All of a node's checkpoints."""
    return folder.node(node) / "checkpoints"


def step_folder(folder: RunFolder, node: str, step: int) -> Path:
    """A node's files of one checkpoint."""
    return node_folder(folder, node) / step_name(step)


def shard_name(rank: int) -> str:
    """A rank's file on its own node."""
    return f"rank-{rank}.safetensors"


def copy_name(rank: int) -> str:
    """Its copy on another node."""
    return f"copy-of-{shard_name(rank)}"
