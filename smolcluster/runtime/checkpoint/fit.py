"""Whether a checkpoint fits this run: another model is an error, other data or seed are worth a note. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from smolcluster.runtime.checkpoint.manifest import Manifest
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import is_carried

Shapes = dict[str, tuple[int, ...]]

# More differences than this are one difference: another model.
MOST_TOLD = 8


def shapes_of(manifest: Manifest) -> Shapes:
    """The tensors in a checkpoint."""
    return {entry.name: entry.shape for file in manifest.files for entry in file.entries}


def differences(here: Mapping[str, tuple[int, ...]], manifest: Manifest) -> list[str]:
    """What keeps a checkpoint from being loaded into tensors of those names and shapes, a line each."""
    there = shapes_of(manifest)
    found = []
    names = (name for name in {*here, *there} if not is_carried(name))
    for name in sorted(names, key=lambda name: (name.startswith("optim."), name)):
        if name not in there:
            found.append(f"{name} {here[name]} is only in this run's model")
        elif name not in here:
            found.append(f"{name} {there[name]} is only in the checkpoint")
        elif here[name] != there[name]:
            found.append(f"{name} is {there[name]} in the checkpoint and {here[name]} in this run's model")
    more = len(found) - MOST_TOLD
    return [*found[:MOST_TOLD], f"and {more} more"] if more > 0 else found


def uncovered(here: Mapping[str, tuple[int, ...]], manifest: Manifest) -> list[str]:
    """What a manifest of the right names and shapes still does not hold all of.

    What has to do with the wire format may be missing altogether, and more of it be there.
    """
    there = shapes_of(manifest)
    elements = {name: 0 for name in here if name in there or not is_carried(name)}
    for file in manifest.files:
        for entry in file.entries:
            if entry.name in elements:
                elements[entry.name] += math.prod(entry.sizes)
    odd = sorted(name for name, count in elements.items() if count != math.prod(here[name]))
    step = manifest.step
    return [f"the checkpoint of step {step} does not hold all of {', '.join(odd[:3])}. Do not use it"] if odd else []


def dropped(here: Mapping[str, tuple[int, ...]], manifest: Manifest) -> list[str]:
    """Warnings where a checkpoint has what belongs to its ranks and nobody can take it up, as they are others now.

    What int8 had not sent yet is the rounding of one step's gradients; diloco's inner optimizers are a mean over steps.
    """
    left = [name for name in shapes_of(manifest) if is_carried(name) and name not in here]
    ranks = f"{manifest.world_size} rank{'s' if manifest.world_size > 1 else ''}"
    told = []
    if any("residual." in name for name in left):
        what = f"what {ranks} had not yet sent of their gradients (wire: int8)"
        told.append(f"{what} fits no other ranks or format: it is dropped")
    if any("inner." in name for name in left):
        what = f"the own optimizers of {ranks} fit no other ranks"
        told.append(f"{what}: all begin with the same one, made of a piece from each")
    if any("outer.momentum." in name for name in left):
        told.append("the momentum over diloco's rounds is dropped")
    return told


def notes_on(manifest: Manifest, context: RunContext) -> list[str]:
    """What differs from the run that wrote the checkpoint, and changes what is trained on from here."""
    cursor, run = manifest.cursor, context.run
    pairs = (
        ("seed", cursor.seed, run.seed),
        ("global batch", cursor.global_batch, context.plan.global_batch),
        ("data", cursor.dataset, context.data_dir.name),
    )
    return [f"{what}: {before} before, {now} now" for what, before, now in pairs if before != now]
