"""A trained GPT or Llama as a Hugging Face folder, and back. No transformers needed: JSON and safetensors.

    config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json

`transformers.AutoModelForCausalLM.from_pretrained(folder)` loads what is written here, and load_pretrained loads any
GPT-2, Llama or Qwen that transformers wrote. Weights that nobody vouches for are safe to read: safetensors holds
numbers only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smolcluster.files import folder_aside
from smolcluster.models.build import build_model
from smolcluster.models.gpt import GPT, INIT_STD
from smolcluster.models.hf_llama import llama_config
from smolcluster.models.llama import Llama
from smolcluster.models.swap import put_in_place
from smolcluster.spec.pretrained import (
    CONFIG,
    INDEX,
    LAYER_NORM_EPS,
    TOKENIZER,
    WEIGHTS,
    problem,
    read_config,
    weight_files,
)
from smolcluster.spec.run import GPTSpec

END_OF_TEXT = "<|endoftext|>"
# Causal masks and angles that old checkpoints carry as buffers.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def save_pretrained(
    model: GPT | Llama, tokenizer_file: Path, folder: Path, tensors: Mapping[str, Tensor] | None = None
) -> None:
    """Write the model and its tokenizer.json to `folder`, whole or not at all; an older one there is replaced.

    `tensors` gives the values by parameter name where `model` does not hold them (a sharded model); None takes its own.
    """
    values = dict(model.named_parameters()) if tensors is None else tensors
    save_tensors(model.spec, {name: values[name] for name, _ in model.named_parameters()}, tokenizer_file, folder)


def save_tensors(spec: GPTSpec, tensors: Mapping[str, Tensor], tokenizer_file: Path, folder: Path) -> None:
    """The same of a model that is nowhere whole: `tensors` are all its parameters by name."""
    folder = folder.absolute()
    building = folder_aside(folder.parent, f".{folder.name}-")
    try:
        flat = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in tensors.items()}
        save_file(flat, building / WEIGHTS, metadata={"format": "pt"})
        tokenizer = tokenizer_file.read_text(encoding="utf-8")
        end = _special(json.loads(tokenizer))
        # mkstemp and safetensors make private files; a model is meant to be read.
        (building / TOKENIZER).write_text(tokenizer, encoding="utf-8")
        describe = _config if spec.llama is None else llama_config
        _write_json(building / CONFIG, describe(spec, end[1] if end else None))
        ends = {"bos_token_id": end[1], "eos_token_id": end[1]} if end else {}
        _write_json(building / "generation_config.json", {"_from_model_config": True, **ends})
        _write_json(building / "tokenizer_config.json", _tokenizer_config(spec, end[0] if end else None))
        building.chmod(0o755)
        (building / WEIGHTS).chmod(0o644)
        put_in_place(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_pretrained(folder: Path) -> GPT | Llama:
    """The model in a Hugging Face folder, float32 on the CPU, in evaluation mode.

    InputError when it is no such folder, another kind of model, or tensors are missing, unknown or of another shape.
    """
    model = build_model(read_config(folder))
    load_weights(folder, model)
    return model.eval()


def load_weights(folder: Path, model: GPT | Llama) -> None:
    """Give a model the weights of a Hugging Face folder, of any floating type. InputError when they are not its own."""
    tensors = read_weights(folder, model.spec, {n: tuple(p.shape) for n, p in model.named_parameters()})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def read_weights(folder: Path, spec: GPTSpec, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder by our names. InputError unless they are `wanted`, by name and shape."""
    tensors = _rename(_read_tensors(folder), spec)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if dict(wanted) != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        listed = ", ".join(
            f"{name} (expected {wanted.get(name, 'none')}, found {found.get(name, 'none')})" for name in differing[:4]
        )
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise problem(folder / WEIGHTS, f"does not fit its config.json: {listed}{more}")
    return tensors


def _config(spec: GPTSpec, end: int | None) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_embd": spec.model_dim,
        "n_layer": spec.num_layers,
        "n_head": spec.num_heads,
        "n_inner": spec.ff_dim,
        "n_positions": spec.num_positions,
        "n_ctx": spec.num_positions,
        "vocab_size": spec.vocab_size,
        "resid_pdrop": spec.dropout,
        "embd_pdrop": spec.dropout,
        "attn_pdrop": spec.dropout,
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "initializer_range": INIT_STD,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": spec.tie_embeddings,
        "dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
    }


def _tokenizer_config(spec: GPTSpec, end: str | None) -> dict[str, Any]:
    # The class that takes tokenizer.json as it is. GPT2Tokenizer would rebuild it with GPT-2's own settings.
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": spec.num_positions}
    if end is not None:
        config |= {"bos_token": end, "eos_token": end, "unk_token": end}
    return config | {"clean_up_tokenization_spaces": False}


def _special(tokenizer: Mapping[str, Any]) -> tuple[str, int] | None:
    """The token between documents and its id: END_OF_TEXT, else the first special token, else None."""
    special = [(token["content"], int(token["id"])) for token in tokenizer.get("added_tokens", ()) if token["special"]]
    ours = [pair for pair in special if pair[0] == END_OF_TEXT]
    return next(iter(ours + special), None)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder: one safetensors file, or the several that an index names."""
    files = [file for file in weight_files(folder) if file.name != INDEX]
    try:
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise problem(folder / WEIGHTS, f"cannot be read: {error}") from error


def _rename(tensors: dict[str, Tensor], spec: GPTSpec) -> dict[str, Tensor]:
    """Our names: with the prefix that GPT2Model's and LlamaModel's checkpoints lack, without buffers and without a tied
    head's copy."""
    prefix = "transformer." if spec.llama is None else "model."
    named = {
        name if name.startswith((prefix, "lm_head.")) else f"{prefix}{name}": tensor
        for name, tensor in tensors.items()
        if not name.endswith(_BUFFERS)
    }
    if spec.tie_embeddings:
        named.pop("lm_head.weight", None)
    return named


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
