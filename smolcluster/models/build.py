"""From a spec to a model with its first weights."""

from __future__ import annotations

from typing import overload

from smolcluster.models.gpt import GPT
from smolcluster.models.gpt_stage import GPTStage
from smolcluster.models.llama import Llama
from smolcluster.models.nn import SimpleNN
from smolcluster.models.nn_stage import NNStage
from smolcluster.models.partition import LayerRange
from smolcluster.spec.run import GPTSpec, NNSpec


@overload
def build_model(spec: GPTSpec, vocab_size: int | None = None, seed: int = 0) -> GPT | Llama: ...
@overload
def build_model(spec: NNSpec, vocab_size: int | None = None, seed: int = 0) -> SimpleNN: ...
def build_model(spec: GPTSpec | NNSpec, vocab_size: int | None = None, seed: int = 0) -> GPT | Llama | SimpleNN:
    """The model of `spec` on the CPU, float32, in training mode. The same seed gives the same weights, everywhere.

    vocab_size is the data folder's (its meta.json decides); None takes the spec's. SimpleNN has none.
    """
    if isinstance(spec, NNSpec):
        return SimpleNN(spec, seed)
    spec = _known(spec, vocab_size)
    return GPT(spec, seed) if spec.llama is None else Llama(spec, seed=seed)


def build_stage(
    spec: GPTSpec | NNSpec, layers: LayerRange, vocab_size: int | None = None, seed: int = 0
) -> GPTStage | Llama | NNStage:
    """The part of build_model(spec, vocab_size, seed) that those layers are, with the same values."""
    if isinstance(spec, NNSpec):
        return NNStage(spec, layers, seed)
    spec = _known(spec, vocab_size)
    return GPTStage(spec, layers, seed) if spec.llama is None else Llama(spec, layers, seed)


def _known(spec: GPTSpec, vocab_size: int | None) -> GPTSpec:
    return spec.model_copy(update={"vocab_size": vocab_size}) if vocab_size else spec
