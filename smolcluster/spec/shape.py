"""The shape of a decoder that can be served, read from a Hugging Face config.json: GPT-2, Llama, Qwen 2 and 3, SmolLM.
No torch: a plan is made from it.

All are pre-norm decoders of one form; what differs is a handful of switches. A variant that would be computed
differently is refused with its name, never served approximately.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from smolcluster.errors import InputError, Problem
from smolcluster.spec.base import Frozen

CONFIG = "config.json"
GENERATION = "generation_config.json"
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
LLAMA_LIKE = ("llama", "qwen2", "qwen3", "mistral")
_ROPE_KINDS = ("default", "linear", "llama3")


class Rope(Frozen):
    """Rotary positions (Su et al. 2021). `scaling` linear and llama3 stretch them for longer contexts."""

    theta: float = Field(gt=0)
    scaling: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192


class DecoderShape(Frozen):
    """One decoder. `tied`: the head is the embedding. `rope` None: learned positions (GPT-2)."""

    family: Literal["gpt2", "llama"]
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    ff_width: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    norm_eps: float = Field(gt=0)
    tied: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool = False
    rope: Rope | None = None

    @property
    def layer_params(self) -> int:
        """Parameters of one layer; biases and norms, below a thousandth, are left out."""
        attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads)
        return attention + self.width * self.ff_width * (2 if self.family == "gpt2" else 3)

    @property
    def table_params(self) -> int:
        """Parameters of the table of words, and of the head."""
        return self.vocab_size * self.width

    @property
    def params(self) -> int:
        """All parameters, a tied head once."""
        norm = self.width * (2 if self.family == "gpt2" else 1)
        queries, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = self.layer_params + 2 * norm
        layer += queries + 2 * shared if self.qkv_bias else 0
        layer += self.width if self.out_bias else 0
        layer += self.ff_width * (1 if self.family == "gpt2" else 2) + self.width if self.mlp_bias else 0
        layer += 2 * self.head_dim if self.qk_norm else 0
        positions = self.max_positions * self.width if self.rope is None else 0
        return self.layers * layer + self.table_params * (1 if self.tied else 2) + positions + norm

    @property
    def cache_values(self) -> int:
        """Keys and values that one token leaves in one layer."""
        return 2 * self.kv_heads * self.head_dim


def read_shape(folder: Path) -> DecoderShape:
    """The shape of the model in a Hugging Face folder. InputError when it is none that can be served."""
    file = folder / CONFIG
    config = _read_json(file)
    kind = config.get("model_type")
    if kind != "gpt2" and kind not in LLAMA_LIKE:
        raise _problem(file, f"is a model of type {kind!r}; gpt2 and {', '.join(LLAMA_LIKE)} can be served")
    try:
        return _gpt2(config, file) if kind == "gpt2" else _llama(config, file)
    except (KeyError, TypeError, ValidationError) as error:
        raise _problem(file, f"does not describe a {kind}: {error}") from error


def end_tokens(folder: Path) -> tuple[int, ...]:
    """The ids that end a text, as generation_config.json or config.json says; none if neither does."""
    for name in (GENERATION, CONFIG):
        if (folder / name).is_file():
            said = _read_json(folder / name).get("eos_token_id")
            if said is not None:
                return tuple(int(one) for one in (said if isinstance(said, list) else [said]))
    return ()


def _gpt2(config: Mapping[str, Any], file: Path) -> DecoderShape:
    activation = config.get("activation_function", "gelu_new")
    odd = config.get("scale_attn_by_inverse_layer_idx") or config.get("add_cross_attention")
    if activation not in _TANH_GELU or odd or not config.get("scale_attn_weights", True):
        raise _problem(file, "is a variant of GPT-2 (activation or attention) that is computed differently here")
    width, heads = config["n_embd"], config["n_head"]
    return DecoderShape(
        family="gpt2",
        width=width,
        layers=config["n_layer"],
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        ff_width=config.get("n_inner") or 4 * width,
        vocab_size=config["vocab_size"],
        max_positions=config["n_positions"],
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        tied=config.get("tie_word_embeddings", True),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _llama(config: Mapping[str, Any], file: Path) -> DecoderShape:
    kind, heads = config["model_type"], config["num_attention_heads"]
    if config.get("hidden_act", "silu") != "silu":
        raise _problem(file, f"has the activation {config['hidden_act']}, only silu can be served")
    slides = config.get("use_sliding_window", kind == "mistral") and config.get("sliding_window") is not None
    if slides:
        raise _problem(file, "attends through a sliding window, which cannot be served")
    # Qwen 2 has biases without saying so; elsewhere attention_bias is for all four projections.
    bias = bool(config.get("attention_bias", False))
    return DecoderShape(
        family="llama",
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        ff_width=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        tied=config.get("tie_word_embeddings", False),
        qkv_bias=bias or kind == "qwen2",
        out_bias=bias and kind != "qwen2",
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        rope=_rope(config, file),
    )


def _rope(config: Mapping[str, Any], file: Path) -> Rope:
    """`rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of those before."""
    said = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in _ROPE_KINDS or said.get("partial_rotary_factor", 1.0) != 1.0:
        raise _problem(file, f"scales its rotary positions by {kind!r}; {', '.join(_ROPE_KINDS)} can be served")
    return Rope(
        theta=said.get("rope_theta", config.get("rope_theta", 10000.0)),
        scaling=kind,
        factor=said.get("factor", 1.0),
        low_freq_factor=said.get("low_freq_factor", 1.0),
        high_freq_factor=said.get("high_freq_factor", 4.0),
        original_positions=said.get("original_max_position_embeddings", config["max_position_embeddings"]),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _problem(file.parent, f"is not a model folder: it has no {file.name}") from None
    except (OSError, ValueError) as error:
        raise _problem(file, f"cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise _problem(file, "is no JSON object")
    return found


def _problem(file: Path, what: str) -> InputError:
    fix = "give a folder with a GPT-2, Llama or Qwen model in Hugging Face format"
    return InputError([Problem(str(file), 0, "", what, fix)])
