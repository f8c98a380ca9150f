"""What an exported stage is, in the small stage.json beside it; and the name it goes by, which its content gives.

.cache/tablet/gpt2-4-8-coreml-int8-1f0c9a2b7d3e/stage.mlpackage   (or stage.onnx)
                                                stage.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from torch import Tensor

from smolcluster.errors import InputError, Problem
from smolcluster.models.decoder import Decoder, Norm
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import TabletPrecision
from smolcluster.tablet.blocks import array, full

MANIFEST_SCHEMA = 1
# Grows with every change of the exporters that makes another program of the same weights.
EXPORTER = 1
MANIFEST = "stage.json"
FILES: dict[str, str] = {"coreml": "stage.mlpackage", "onnx": "stage.onnx"}

Format = Literal["coreml", "onnx"]


class Values(Frozen):
    """One input, output or state: its shape, with names where it is not fixed."""

    dtype: str
    shape: tuple[int | str, ...]


class Manifest(Frozen):
    """One exported stage. `lengths`: the T it takes, () for any; `hash`: of weights, layers, options and exporter."""

    schema_: int = Field(default=MANIFEST_SCHEMA, alias="schema", serialization_alias="schema")
    hash: str
    format: Format
    file: str
    model: str
    family: str
    layers: str
    model_layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    precision: TabletPrecision
    lengths: tuple[int, ...]
    last: bool
    exporter: int = EXPORTER
    inputs: dict[str, Values]
    outputs: dict[str, Values]
    states: dict[str, Values]

    @property
    def name(self) -> str:
        """Its folder's."""
        model = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in self.model).strip(".-")
        kind = f"{self.format}-{self.precision}"
        return f"{model or 'model'}-{self.layers.replace(':', '-')}-{kind}-{self.hash[:12]}"


def describe(
    decoder: Decoder, model: str, made: Format, precision: TabletPrecision, context: int, lengths: tuple[int, ...]
) -> Manifest:
    """The manifest of an export of that stage with those options."""
    shape = decoder.shape
    kind = "float16" if made == "coreml" else "float32"
    layers = decoder.range.size
    hidden = Values(dtype=kind, shape=(1, "T", shape.width))
    out = Values(dtype=kind, shape=(1, 1, shape.vocab_size)) if decoder.range.last else hidden

    def cache(tokens: int | str) -> Values:
        return Values(dtype=kind, shape=(layers, shape.kv_heads, tokens, shape.head_dim))

    if made == "coreml":
        inputs = {"hidden": hidden, "positions": Values(dtype="int32", shape=("T",))}
        outputs, states = {"out": out}, {"keys": cache(context), "values": cache(context)}
    else:
        inputs = {"hidden": hidden, "past_keys": cache("P"), "past_values": cache("P")}
        outputs, states = {"out": out, "keys": cache("P+T"), "values": cache("P+T")}, {}
    options = {
        "format": made,
        "precision": precision,
        "context": context,
        "lengths": list(lengths),
        "layers": str(decoder.range),
        "exporter": EXPORTER,
    }
    return Manifest(
        hash=fingerprint(decoder, options),
        format=made,
        file=FILES[made],
        model=model,
        family=shape.family,
        layers=str(decoder.range),
        model_layers=decoder.range.layers,
        width=shape.width,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        context=context,
        precision=precision,
        lengths=lengths,
        last=decoder.range.last,
        inputs=inputs,
        outputs=outputs,
        states=states,
    )


def fingerprint(decoder: Decoder, options: Mapping[str, object]) -> str:
    """SHA-256 over the options, the model's shape and every value of the stage's weights."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    digest.update(decoder.shape.model_dump_json().encode())
    for tensor in _tensors(decoder):
        digest.update(json.dumps(tuple(tensor.shape)).encode())
        digest.update(array(tensor).data)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The stage.json of a folder. InputError where there is none of ours, or its stage is not beside it."""
    file = folder / MANIFEST
    fix = "export the stage again: python -m smolcluster export-coreml, or export-onnx"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if schema != MANIFEST_SCHEMA:
            what = f"has schema {schema!r}, this smolcluster reads {MANIFEST_SCHEMA}"
            raise InputError([Problem(str(file), 0, "schema", what, fix)])
        manifest = Manifest.model_validate(raw)
    except (OSError, ValueError, ValidationError) as error:
        raise InputError([Problem(str(file), 0, "", f"is no description of a stage: {error}", fix)]) from error
    # Its own name only: a manifest from elsewhere is no way out of the folder.
    if manifest.file != FILES[manifest.format] or not (folder / manifest.file).exists():
        raise InputError([Problem(str(folder / manifest.file), 0, "", "is not there", fix)])
    return manifest


def _tensors(decoder: Decoder) -> Iterator[Tensor]:
    def of(norm: Norm | None) -> Iterator[Tensor]:
        for tensor in () if norm is None else (norm.weight, norm.bias):
            if tensor is not None:
                yield tensor

    for layer in decoder.layers:
        attention, mlp = layer.attention, layer.mlp
        for norm in (layer.attention_norm, attention.q_norm, attention.k_norm, layer.mlp_norm):
            yield from of(norm)
        for dense in map(full, (attention.qkv, attention.out, mlp.up, mlp.down)):
            yield dense.weight
            if dense.bias is not None:
                yield dense.bias
    yield from of(decoder.norm)
    if decoder.head is not None:
        yield full(decoder.head).weight
