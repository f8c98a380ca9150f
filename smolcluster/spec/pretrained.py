"""What a model folder in Hugging Face format holds, told by its small files alone. No torch.

GPT-2 and Llama's kin that are computed as ours are: another architecture, activation or kind of attention is refused,
not guessed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolcluster.errors import InputError, Problem
from smolcluster.spec.run import GPTSpec, LlamaBlocks
from smolcluster.spec.shape import LLAMA_LIKE, read_shape

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
INDEX = "model.safetensors.index.json"
LAYER_NORM_EPS = 1e-5
# Small files beside the weights: what a run needs of a hub's repository before it can be planned.
TOKENIZER_FILES = (TOKENIZER, "vocab.json", "merges.txt", "tokenizer_config.json")
_SUPPORTED = ("gpt2", *LLAMA_LIKE)
# Ours is the tanh approximation, which transformers knows by several names.
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
# What a config.json may say besides, and the only value that is computed as ours.
_AS_OURS: dict[str, object] = {
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "layer_norm_epsilon": LAYER_NORM_EPS,
}
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Pretrained:
    """Weights to start from, their shape, the SHA-256 of their config.json. `tokenizer`: whether they bring one."""

    folder: Path
    spec: GPTSpec
    tokenizer: bool
    sha256: str


def read_pretrained(folder: Path) -> Pretrained:
    """The model in a folder; its weights are not looked at. InputError when it is none that can be trained."""
    spec = read_config(folder)
    ready = (folder / TOKENIZER).is_file() or all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    digest = hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()
    return Pretrained(folder, spec, ready, digest)


def read_config(folder: Path) -> GPTSpec:
    """The shape of the model in a Hugging Face folder. InputError when it is none that can be trained."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise problem(folder, "is not a model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise problem(file, f"cannot be read: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in _SUPPORTED:
        raise problem(file, f"is a model of type {kind!r}; only {', '.join(_SUPPORTED)} can be loaded")
    if kind in LLAMA_LIKE:
        return _llama(folder, kind)
    odd = _differences(config)
    if odd:
        raise problem(file, f"is a variant of GPT-2 that is computed differently here: {odd}")
    try:
        return GPTSpec(
            model_dim=config["n_embd"],
            num_layers=config["n_layer"],
            num_heads=config["n_head"],
            ff_dim=config.get("n_inner") or 4 * config["n_embd"],
            dropout=config.get("resid_pdrop", 0.1),
            max_seq_len=config["n_positions"],
            tie_embeddings=config.get("tie_word_embeddings", True),
            vocab_size=config["vocab_size"],
        )
    except (KeyError, ValueError) as error:
        raise problem(file, f"does not describe a GPT-2: {error}") from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold a folder's weights: one, or an index and those it names. InputError where one is missing."""
    files = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
            files = [folder / INDEX, *(folder / Path(name).name for name in sorted(names))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise problem(folder / INDEX, f"cannot be read: {error}") from error
    for file in files:
        if not file.is_file():
            raise _missing(folder, file.name)
    return tuple(files)


def problem(
    file: Path, what: str, fix: str = "give a folder with a GPT-2, Llama or Qwen model in Hugging Face format"
) -> InputError:
    """The error for a folder that cannot be loaded."""
    return InputError([Problem(str(file), 0, "", what, fix)])


def _llama(folder: Path, kind: str) -> GPTSpec:
    shape = read_shape(folder)
    assert shape.rope is not None, "all of them turn their positions"
    shared = ("kv_heads", "head_dim", "norm_eps", "qkv_bias", "out_bias", "mlp_bias", "qk_norm", "rope")
    return GPTSpec(
        model_dim=shape.width,
        num_layers=shape.layers,
        num_heads=shape.heads,
        ff_dim=shape.ff_width,
        dropout=0.0,
        max_seq_len=shape.max_positions,
        tie_embeddings=shape.tied,
        vocab_size=shape.vocab_size,
        llama=LlamaBlocks.model_validate({"kind": kind, **{name: getattr(shape, name) for name in shared}}),
    )


def _missing(folder: Path, name: str) -> InputError:
    pickles = sorted(file.name for kind in _PICKLES for file in folder.glob(kind))
    if name != WEIGHTS or not pickles:
        return problem(folder, f"has no {name}")
    what = f"has its weights only as {pickles[0]}, a pickle, and reading one may run whatever code is in it"
    load = f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained({str(folder) + '-safe'!r})"
    fix = (
        "if you trust where it comes from, convert it with transformers and take what it makes: "
        f'python -c "from transformers import AutoModelForCausalLM; {load}"'
    )
    return problem(folder, what, fix)


def _differences(config: dict[str, Any]) -> str:
    odd = [f"{key} {config[key]}" for key, value in _AS_OURS.items() if config.get(key, value) != value]
    activation = config.get("activation_function", "gelu_new")
    if activation not in _TANH_GELU:
        odd.append(f"activation_function {activation}")
    return ", ".join(odd)
