"""Which checkpoints stay, and how the others go: the manifest first, so that none is ever half there. No torch.

What cannot be read here (a newer version wrote it, a byte flipped) is not removed, nor what is not ours. Times of files
mean nothing: clocks of home computers are set back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from smolcluster.runtime.checkpoint.files import PART, remove
from smolcluster.runtime.checkpoint.manifest import (
    MANIFEST_COPY,
    BadManifestError,
    Manifest,
    Place,
    node_folder,
    parse_manifest,
    step_folder,
    step_of,
)
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import CheckpointSpec


def to_keep(losses: Mapping[int, float | None], now: int, spec: CheckpointSpec) -> frozenset[int]:
    """The steps that stay, of checkpoints by step with the validation loss of each, when `now` was just saved.

    Later ones than that, of a past that was given up for an earlier checkpoint, are not looked at.
    """
    steps = sorted(step for step in losses if step <= now)
    kept = set(steps[-spec.keep :])
    measured = [(loss, -step) for step in steps if (loss := losses[step]) is not None]
    if spec.keep_best and measured:
        kept.add(-min(measured)[1])
    return frozenset(kept)


@dataclass(frozen=True)
class Kept:
    """What lies in a run's folder: by step the validation loss, and the steps of manifests that cannot be read here."""

    losses: dict[int, float | None]
    unreadable: frozenset[int]


def look_at(folder: RunFolder, node: str) -> Kept:
    """The checkpoints of a run, by what lies on rank 0's node `node`: manifests, and copies of earlier rank 0s'."""
    known: dict[int, Manifest] = {}
    found = [(step_of(path.stem), path) for path in folder.checkpoints.glob("step-*.json")]
    copies = node_folder(folder, node).glob(f"step-*/{MANIFEST_COPY}")
    found += [(step_of(path.parent.name), path) for path in copies]
    steps = set()
    for step, path in found:
        if step is None:
            continue
        steps.add(step)
        try:
            manifest = parse_manifest(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, BadManifestError):
            continue
        if step not in known or manifest.generation > known[step].generation:
            known[step] = manifest
    losses = {step: manifest.val_loss for step, manifest in known.items()}
    return Kept(losses, frozenset(steps - losses.keys()))


def drop_manifests(folder: RunFolder, now: int, kept: frozenset[int]) -> None:
    """Rank 0, when `now` was just saved: remove the manifests of checkpoints that go, and half written ones."""
    for path in folder.checkpoints.glob("step-*.json"):
        step = step_of(path.stem)
        if step is not None and step <= now and step not in kept:
            remove(path)
    for path in folder.checkpoints.glob(f".step-*.json{PART}"):
        remove(path)


def drop_files(folder: RunFolder, node: str, now: int, kept: frozenset[int]) -> None:
    """A node: remove its files of every checkpoint that is not among the kept ones, whole or half written.

    Only up to `now`: another rank of the node may be writing the next one already.
    """
    for path in node_folder(folder, node).glob("step-*"):
        step = step_of(path.name)
        if step is not None and step <= now and step not in kept:
            _drop(path)


def _drop(place: Path) -> None:
    """Remove what is ours in a step's folder, and the folder if nothing else is in it."""
    remove(place / MANIFEST_COPY)
    for path in place.glob("*"):
        if Place.is_name(path.name) or path.name.endswith(PART):
            remove(path)
    with contextlib.suppress(OSError):  # something of somebody's is in it, or it is for another time
        place.rmdir()


def drop_step(folder: RunFolder, node: str, step: int, names: Iterable[str]) -> None:
    """A save that failed: remove what this rank wrote of it."""
    place = step_folder(folder, node, step)
    for name in names:
        remove(place / name)
    with contextlib.suppress(OSError):
        place.rmdir()
