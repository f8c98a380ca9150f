"""Small runs with checkpoints, and their checkpoints read by somebody who knows nothing of ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from smolcluster.plan.types import Plan
from smolcluster.runtime.checkpoint.manifest import Manifest, manifest_file, parse_manifest, step_folder
from smolcluster.runtime.context import Alone, RunContext
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.runtime.slices import Box
from smolcluster.spec.run import CheckpointSpec

sys.path.append(str(Path(__file__).parents[1] / "train"))

from train_folders import data_folder as data_folder
from train_folders import plan_of, run_spec
from train_folders import write_run as write_run

SHARES = {1: (6,), 2: (4, 2), 3: (1, 3, 2)}


def plan(
    world_size: int, strategy: str = "fsdp", stage: int = 1, checkpoint: dict[str, Any] | None = None, **training: Any
) -> Plan:
    """The same global batch at every world size."""
    shares = SHARES[world_size]
    spec = run_spec(strategy, shares, stage, **training)
    given = CheckpointSpec(**{"every_steps": 4, **(checkpoint or {})})
    return plan_of(spec.model_copy(update={"checkpoint": given}), shares)


def context_of(
    folder: Path, data: Path, made: Plan, rank: int, wires: Any = None, generation: int = 0, resume: Path | None = None
) -> RunContext:
    return RunContext(
        folder.name, generation, made, made.ranks[rank], torch.device("cpu"), RunFolder(folder), data,
        Alone() if wires is None else wires, resume_from=resume,
    )  # fmt: skip


def loaded(folder: Path, step: int) -> Manifest:
    return parse_manifest(manifest_file(RunFolder(folder), step).read_text())


def state_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """The whole tensors of a checkpoint, put together from every rank's file."""
    manifest = loaded(folder, step)
    whole: dict[str, torch.Tensor] = {}
    for file in manifest.files:
        place = file.places[0]
        tensors = load_file(step_folder(RunFolder(folder), place.node, step) / place.name)
        assert set(tensors) == {entry.key for entry in file.entries}
        for entry in file.entries:
            room = whole.setdefault(entry.name, torch.full(entry.shape, float("nan")))
            box = Box((0,) * len(entry.shape), entry.shape)
            room[Box(entry.offset, entry.sizes).within(box)] = tensors[entry.key]
    return whole


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bitwise."""
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())
