"""Export a stage once: what has the same content has the same name, and is not made again.

The folder appears whole or not at all; who finds it there may use it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smolcluster.errors import InputError, Problem
from smolcluster.files import folder_aside
from smolcluster.models.decoder import Decoder
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.models.swap import put_in_place
from smolcluster.runtime.runfolder import write_atomic
from smolcluster.spec.shape import read_shape
from smolcluster.tablet.coreml import CoreMLPrecision, save_coreml
from smolcluster.tablet.manifest import MANIFEST, Manifest, describe, read_manifest
from smolcluster.tablet.onnxfile import save_onnx

CACHE = Path(".cache/tablet")
# Positions in the cache, unless the model has fewer or the person says otherwise: each costs its keys and values.
CONTEXT = 2048
# A token that is generated, and pieces of a prompt.
LENGTHS = (1, 8, 64)


@dataclass(frozen=True)
class Exported:
    """One export. `made`: it was not there before."""

    folder: Path
    manifest: Manifest
    made: bool

    @property
    def file(self) -> Path:
        """The package or file itself."""
        return self.folder / self.manifest.file


def load_for_tablet(folder: Path, layers: str, context: int | None) -> tuple[Decoder, int]:
    """The stage `layers` ("4:8") of the model in `folder`, and the positions that its cache gets. InputError."""
    shape = read_shape(folder)
    problems: list[Problem] = []
    part = _range(layers, shape.layers, problems)
    if context is not None and not 1 <= context <= shape.max_positions:
        what = f"{context} positions; the model knows 1 to {shape.max_positions}"
        problems.append(
            Problem("", 0, "--context", what, f"write {min(CONTEXT, shape.max_positions)}, or leave it away")
        )
    if part is None or problems:
        raise InputError(problems)
    return load_stage(folder, part), context or min(CONTEXT, shape.max_positions)


def export_coreml(
    decoder: Decoder,
    model: str,
    context: int,
    out: Path = CACHE,
    precision: CoreMLPrecision = "fp16",
    lengths: Sequence[int] = LENGTHS,
) -> Exported:
    """The stage as an .mlpackage below `out`, which is made only if it is not there. InputError, OSError."""
    fitting = tuple(sorted({1, *(length for length in lengths if 1 <= length <= context)}))
    manifest = describe(decoder, model, "coreml", precision, context, fitting)
    return _once(manifest, out, lambda file: save_coreml(decoder, file, context, fitting, precision))


def export_onnx(decoder: Decoder, model: str, context: int, out: Path = CACHE) -> Exported:
    """The stage as an ONNX file below `out`, which is made only if it is not there. InputError, OSError."""
    manifest = describe(decoder, model, "onnx", "fp32", context, ())
    return _once(manifest, out, lambda file: save_onnx(decoder, file, context))


def _once(manifest: Manifest, out: Path, save: Callable[[Path], None]) -> Exported:
    folder = out.absolute() / manifest.name
    if folder.is_dir():
        try:
            found = read_manifest(folder)
        except InputError:
            found = None  # somebody took a part of it away: it is made again
        if found is not None and found.hash == manifest.hash:
            return Exported(folder, found, made=False)
    building = folder_aside(folder.parent, f".{folder.name}-")
    try:
        save(building / manifest.file)
        write_atomic(building / MANIFEST, manifest.model_dump_json(by_alias=True, indent=2) + "\n")
        building.chmod(0o755)
        put_in_place(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Exported(folder, manifest, made=True)


def _range(text: str, layers: int, problems: list[Problem]) -> LayerRange | None:
    start, colon, stop = text.partition(":")
    fix = f"half-open ranges, as 0:4 and 4:8; the model has {layers} layers"
    try:
        part = LayerRange(int(start), int(stop), layers) if colon else None
    except ValueError:
        part = None
    if part is None:
        problems.append(Problem("", 0, "--layers", f'"{text}" is no range of its layers', fix))
    elif part.first:
        what = f"{text} are the first layers, with the embeddings: a computer computes those, as the head"
        problems.append(Problem("", 0, "--layers", what, "export layers that begin at 1 or later"))
        return None
    return part
