"""An exported stage against the torch stage that it was made of: a prompt in pieces, then token after token.

Core ML packages are computed by Core ML where there is one, that is on a Mac, and by interpreter.py elsewhere; ONNX
files by onnxruntime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smolcluster.errors import InputError, Problem
from smolcluster.models.decoder import Decoder, Row
from smolcluster.tablet.blocks import Array
from smolcluster.tablet.coreml import coremltools
from smolcluster.tablet.export import Exported
from smolcluster.tablet.interpreter import Interpreter
from smolcluster.tablet.manifest import Manifest

# (1, T, width) float32 that follow what was given before -> what the stage makes of them, float32.
Step = Callable[[Array], Array]
# The largest difference, as a part of the largest value; int4 has four bits a weight, and is told by its direction.
ALLOWED = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.05}
LEAST_COSINE = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.995, "int4": 0.95}
_STEPS = 4


@dataclass(frozen=True)
class Difference:
    """`largest` difference of two values, `relative` to the largest value; `cosine` of all; `by`: who computed."""

    largest: float
    relative: float
    cosine: float
    by: str

    def __str__(self) -> str:
        part = f"{self.relative:.2g} of the largest value"
        return f"largest difference {self.largest:.2g} ({part}), cosine {self.cosine:.7f}, by {self.by}"


def verify(exported: Exported, decoder: Decoder, before: Decoder | None = None) -> Difference:
    """How far the two are apart. InputError where that is more than the precision explains.

    `before`: the model's layers before these, which then make the hidden states of random tokens; None takes random
    ones, on which rounded weights err more than on a model's own.
    """
    manifest = exported.manifest
    step, by = open_step(exported)
    lengths = manifest.lengths or (1, 5)
    pieces = _pieces(lengths, manifest.context)
    generator = torch.Generator().manual_seed(0)
    cache = decoder.new_cache(manifest.context)
    earlier = before.new_cache(manifest.context) if before is not None else None
    wanted, found = [], []
    for count in pieces:
        if before is not None and earlier is not None:
            ids = torch.randint(manifest.vocab_size, (count,), generator=generator)
            hidden = before(ids, [Row(earlier, count, False)])
        else:
            hidden = torch.randn(count, manifest.width, generator=generator)
        wanted.append(decoder(hidden, [Row(cache, count, True)]).numpy().ravel())
        found.append(step(hidden.numpy()[None]).ravel())
    difference = compare(np.concatenate(found), np.concatenate(wanted), by)
    if difference.relative > ALLOWED.get(manifest.precision, np.inf) or (
        not difference.cosine >= LEAST_COSINE[manifest.precision]
    ):
        what = f"does not compute what torch does: {difference}"
        raise InputError([Problem(str(exported.file), 0, "", what, "this is a bug: report it with the model's name")])
    return difference


def compare(found: Array, wanted: Array, by: str = "") -> Difference:
    """Of two arrays of one shape."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    largest = float(np.abs(a - b).max())
    cosine = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    return Difference(largest, largest / float(np.abs(b).max()), cosine, by)


def open_step(exported: Exported) -> tuple[Step, str]:
    """One session of an exported stage, and who computes it."""
    manifest = exported.manifest
    if manifest.format == "onnx":
        return _onnx(exported), "onnxruntime"
    if sys.platform == "darwin":
        model = coremltools().models.MLModel(str(exported.file))
        return _coreml(model, model.make_state()), "Core ML"
    interpreter = Interpreter(exported.file)
    return _coreml(interpreter, interpreter.new_state()), "the interpreter of the saved program"


def _coreml(model: Any, state: Any) -> Step:
    done = 0

    def step(hidden: Array) -> Array:
        nonlocal done
        count = hidden.shape[1]
        positions = np.arange(done, done + count, dtype=np.int32)
        done += count
        out = model.predict({"hidden": hidden.astype(np.float16), "positions": positions}, state)["out"]
        return np.asarray(out).astype(np.float32)

    return step


def _onnx(exported: Exported) -> Step:
    try:
        import onnxruntime
    except ImportError as error:
        what = "verifying an ONNX file needs onnxruntime, which is not installed here"
        raise InputError([Problem("", 0, "--verify", what, "pip install 'smolcluster[onnx]'")]) from error
    session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
    manifest = exported.manifest
    keys = values = _empty(manifest)

    def step(hidden: Array) -> Array:
        nonlocal keys, values
        given = {"hidden": hidden, "past_keys": keys, "past_values": values}
        out, keys, values = session.run(["out", "keys", "values"], given)
        return np.asarray(out)

    return step


def _empty(manifest: Manifest) -> Array:
    shape = manifest.inputs["past_keys"].shape
    return np.zeros([0 if isinstance(size, str) else size for size in shape], np.float32)


def _pieces(lengths: tuple[int, ...], context: int) -> list[int]:
    """Every length, the longest first, then single tokens: as many as the cache has room for."""
    pieces, room = [], context
    for count in (*sorted(lengths, reverse=True), *[1] * _STEPS, lengths[0]):
        if count <= room:
            pieces.append(count)
            room -= count
    return pieces
