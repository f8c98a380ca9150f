"""A stage of a decoder from a Hugging Face folder: its own layers, straight from the file, one tensor at a time.

The names are the checkpoints'. A layer is brought to its precision before the next one is read, so memory stays near
what the stage keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from smolcluster.errors import InputError, Problem
from smolcluster.models.decoder import MLP, Attention, Decoder, Embedding, Layer, Norm
from smolcluster.models.dense import ACTIVATIONS, Dense, Precision, dense
from smolcluster.models.partition import LayerRange, whole
from smolcluster.models.rope import Rotation
from smolcluster.models.tensors import Tensors, open_tensors
from smolcluster.spec.shape import DecoderShape, read_shape


def load_stage(folder: Path, part: LayerRange | None = None, precision: Precision = "fp32") -> Decoder:
    """The layers `part` (None: the whole model) of the model in `folder`. InputError tells what is wrong with it."""
    shape = read_shape(folder)
    part = part or whole(shape.layers)
    if part.layers != shape.layers:
        what = f"has {shape.layers} layers, the plan was made for {part.layers}"
        raise InputError([Problem(str(folder), 0, "", what, "serve the model that was planned")])
    with open_tensors(folder) as tensors:
        return build_stage(shape, part, tensors, precision)


def build_stage(shape: DecoderShape, part: LayerRange, tensors: Tensors, precision: Precision) -> Decoder:
    """The same from open tensors."""
    return _Builder(shape, tensors, precision).stage(part)


class _Builder:
    def __init__(self, shape: DecoderShape, tensors: Tensors, precision: Precision) -> None:
        self.shape = shape
        self.tensors = tensors
        self.precision = precision
        self.kind = ACTIVATIONS[precision]
        # GPT2Model's and LlamaModel's own checkpoints lack the first part of the names.
        prefix = "transformer." if shape.family == "gpt2" else "model."
        words = "wte.weight" if shape.family == "gpt2" else "embed_tokens.weight"
        self.prefix = "" if words in tensors else prefix
        self.words = self.prefix + words

    def stage(self, part: LayerRange) -> Decoder:
        shape, make = self.shape, self._gpt2 if self.shape.family == "gpt2" else self._llama
        layers = tuple(make(number) for number in range(part.start, part.stop))
        return Decoder(
            shape=shape,
            range=part,
            kind=self.kind,
            layers=layers,
            rotation=Rotation(shape.rope, shape.head_dim, shape.max_positions, self.kind) if shape.rope else None,
            embedding=self._embedding() if part.first else None,
            norm=self._norm(f"{self.prefix}{'ln_f' if shape.family == 'gpt2' else 'norm'}") if part.last else None,
            head=self._head() if part.last else None,
        )

    def _get(self, name: str, *shape: int) -> Tensor:
        tensor = self.tensors.get(name)
        if tuple(tensor.shape) != shape:
            what = f"{name} is of shape {tuple(tensor.shape)}, config.json says {shape}"
            raise InputError([Problem("model.safetensors", 0, "", what, "take config and weights of one model")])
        return tensor

    def _embedding(self) -> Embedding:
        shape = self.shape
        words = self._get(self.words, shape.vocab_size, shape.width).to(self.kind)
        if shape.rope is not None:
            return Embedding(words, None)
        return Embedding(words, self._get(f"{self.prefix}wpe.weight", shape.max_positions, shape.width).to(self.kind))

    def _head(self) -> Dense:
        name = self.words if self.shape.tied else "lm_head.weight"
        return dense(self._get(name, self.shape.vocab_size, self.shape.width), None, self.precision)

    def _norm(self, name: str, width: int | None = None) -> Norm:
        width = width or self.shape.width
        bias = self._get(f"{name}.bias", width).to(self.kind) if self.shape.family == "gpt2" else None
        return Norm(self._get(f"{name}.weight", width).to(self.kind), bias, self.shape.norm_eps)

    def _conv1d(self, name: str, inputs: int, outputs: int) -> Dense:
        """GPT-2 stores (in, out)."""
        weight, bias = self._get(f"{name}.weight", inputs, outputs).t(), self._get(f"{name}.bias", outputs)
        return dense(weight, bias, self.precision)

    def _linear(self, names: tuple[str, ...], inputs: int, outputs: tuple[int, ...], bias: bool) -> Dense:
        """Several projections of the same input as one."""
        sizes = list(zip(names, outputs, strict=True))
        weight = torch.cat([self._get(f"{name}.weight", size, inputs) for name, size in sizes])
        biases = torch.cat([self._get(f"{name}.bias", size) for name, size in sizes]) if bias else None
        return dense(weight, biases, self.precision)

    def _gpt2(self, number: int) -> Layer:
        at, shape = f"{self.prefix}h.{number}", self.shape
        return Layer(
            self._norm(f"{at}.ln_1"),
            Attention(
                shape,
                self._conv1d(f"{at}.attn.c_attn", shape.width, 3 * shape.width),
                self._conv1d(f"{at}.attn.c_proj", shape.width, shape.width),
            ),
            self._norm(f"{at}.ln_2"),
            MLP(
                self._conv1d(f"{at}.mlp.c_fc", shape.width, shape.ff_width),
                self._conv1d(f"{at}.mlp.c_proj", shape.ff_width, shape.width),
                gated=False,
            ),
        )

    def _llama(self, number: int) -> Layer:
        at, shape = f"{self.prefix}layers.{number}", self.shape
        own, shared = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        queries = tuple(f"{at}.self_attn.{one}_proj" for one in "qkv")
        small: Callable[[str], Norm | None] = lambda name: (  # noqa: E731
            self._norm(f"{at}.self_attn.{name}", shape.head_dim) if shape.qk_norm else None
        )
        return Layer(
            self._norm(f"{at}.input_layernorm"),
            Attention(
                shape,
                self._linear(queries, shape.width, (own, shared, shared), shape.qkv_bias),
                self._linear((f"{at}.self_attn.o_proj",), own, (shape.width,), shape.out_bias),
                small("q_norm"),
                small("k_norm"),
            ),
            self._norm(f"{at}.post_attention_layernorm"),
            MLP(
                self._linear(
                    (f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"), shape.width, (shape.ff_width,) * 2, shape.mlp_bias
                ),
                self._linear((f"{at}.mlp.down_proj",), shape.ff_width, (shape.width,), shape.mlp_bias),
                gated=True,
            ),
        )
