"""What a tablet in Python computes its layers with: the torch stage itself, or an exported ONNX file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from smolcluster.models.decoder import Decoder, Row
from smolcluster.tablet.blocks import Array
from smolcluster.tablet.manifest import fingerprint, read_manifest

TORCH = "torch"


class Session(Protocol):
    """One text's cache."""

    capacity: int

    @property
    def length(self) -> int:
        """Tokens that it holds."""

    def forward(self, hidden: Array) -> Array:
        """(T, width) float32 that follow -> (T, width), or (1, vocabulary) of the last layers. RuntimeError."""


class Layers(Protocol):
    """A stage that is loaded; `hash` and `layers` as in READY, `context` the most tokens of a session."""

    format: str
    hash: str
    layers: str
    context: int

    def open(self, capacity: int) -> Session:
        """A session without tokens."""


class TorchLayers:
    """The layers of `decoder`, under the hash of its weights unless another is said."""

    format = TORCH

    def __init__(self, decoder: Decoder, context: int, stage_hash: str = "") -> None:
        self.hash = stage_hash or torch_hash(decoder)
        self.layers = str(decoder.range)
        self.context = context
        self._decoder = decoder

    def open(self, capacity: int) -> Session:
        """As Layers'."""
        return _TorchSession(self._decoder, capacity)


class _TorchSession:
    def __init__(self, decoder: Decoder, capacity: int) -> None:
        self.capacity = capacity
        self._decoder = decoder
        self._cache = decoder.new_cache(capacity)

    @property
    def length(self) -> int:
        return self._cache.length

    def forward(self, hidden: Array) -> Array:
        out: Array = self._decoder(torch.from_numpy(hidden), [Row(self._cache, len(hidden), True)]).numpy()
        return out


class OnnxLayers:
    """The stage.onnx of an export's folder, by onnxruntime on one thread. InputError for no export; RuntimeError."""

    format = "onnx"

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        manifest = read_manifest(folder)
        self.hash, self.layers, self.context = manifest.hash, manifest.layers, manifest.context
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with _onnx_errors():
            self._program = onnxruntime.InferenceSession(folder / manifest.file, options, ["CPUExecutionProvider"])
        shape = manifest.inputs["past_keys"].shape
        self._empty = np.zeros([0 if isinstance(size, str) else size for size in shape], np.float32)

    def open(self, capacity: int) -> Session:
        """As Layers'."""
        return _OnnxSession(self._program, self._empty, capacity)


class _OnnxSession:
    def __init__(self, program: Any, empty: Array, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._program = program
        self._keys = self._values = empty

    def forward(self, hidden: Array) -> Array:
        given = {"hidden": hidden[None], "past_keys": self._keys, "past_values": self._values}
        with _onnx_errors():
            out, self._keys, self._values = self._program.run(["out", "keys", "values"], given)
        self.length += len(hidden)
        rows: Array = out[0]
        return rows


@contextlib.contextmanager
def _onnx_errors() -> Iterator[None]:
    """onnxruntime's errors, which have no class in common, as RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        yield
    except kinds as error:
        raise RuntimeError(str(error)) from error


def torch_hash(decoder: Decoder) -> str:
    """What a torch stage goes by: its weights and layers."""
    return fingerprint(decoder, {"format": TORCH, "layers": str(decoder.range)})
