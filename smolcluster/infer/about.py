"""What a model folder says of itself to those who ask: its tokenizer, its chat template, the tokens that end a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolcluster.data.tokenizer import TokenizerChoice, load_tokenizer
from smolcluster.errors import ConfigError, InputError, Problem
from smolcluster.infer.head import About
from smolcluster.plan.types import ServePlan
from smolcluster.spec.pretrained import TOKENIZER_FILES
from smolcluster.spec.shape import DecoderShape, end_tokens

_TEMPLATE = "chat_template.jinja"
_TEMPLATE_JSON = "chat_template.json"
_TOKENIZER = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_DEFAULT = "default"
_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def about(folder: Path, shape: DecoderShape, plan: ServePlan) -> About:
    """The served model. InputError where one of the folder's small files cannot be read."""
    model = plan.serve.model
    return About(
        name=plan.serve.model_name,
        source=plan.serve.source,
        licence=plan.serve.licence,
        layers=shape.layers,
        params=plan.params,
        vocabulary=shape.vocab_size,
        context=context_of(shape, plan),
        max_tokens=model.max_new_tokens,
        precision=model.precision,
        active_strategy=model.active_decoding_strategy,
        strategies=model.decoding_strategies,
        chat_template=chat_template(folder),
        special_tokens=special_tokens(folder),
    )


def context_of(shape: DecoderShape, plan: ServePlan) -> int:
    """The most tokens a session may see."""
    return min(plan.serve.model.ctx_length, shape.max_positions)


def tokenizer_of(folder: Path) -> TokenizerChoice | None:
    """The folder's tokenizer; None where it has none, and only token ids can be served. InputError: it is broken."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        return load_tokenizer(str(folder))
    except ConfigError as error:  # the key it names is training's
        raise InputError(
            Problem(str(folder), 0, "", one.what, "fetch the model again") for one in error.problems
        ) from error


def ends_of(folder: Path, choice: TokenizerChoice | None) -> frozenset[int]:
    """The tokens that end a text: the model's own, else its tokenizer's."""
    said = end_tokens(folder)
    if not said and choice is not None and choice.end is not None:
        return frozenset((choice.end,))
    return frozenset(said)


def chat_template(folder: Path) -> str | None:
    """The Jinja text; of several the one named `default`."""
    file = folder / _TEMPLATE
    if file.is_file():
        return _text(file)
    for name in (_TEMPLATE_JSON, _TOKENIZER):
        said = _object(folder / name).get("chat_template")
        if isinstance(said, list):
            named = {one.get("name"): one.get("template") for one in said if isinstance(one, dict)}
            said = named.get(_DEFAULT)
        if isinstance(said, str):
            return said
    return None


def special_tokens(folder: Path) -> dict[str, str]:
    """Those that a template may name, by their names: bos_token and the like."""
    found: dict[str, str] = {}
    for name in (_SPECIAL, _TOKENIZER):
        said = _object(folder / name)
        for key in _NAMES:
            token = said.get(key)
            if isinstance(token, Mapping):
                token = token.get("content")
            if isinstance(token, str):
                found[key] = token
    return found


def _object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(_text(file))
    except ValueError as error:
        raise _problem(file, f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _problem(file, "is no JSON object")
    return value


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _problem(file, f"cannot be read: {error}") from error


def _problem(file: Path, what: str) -> InputError:
    return InputError([Problem(str(file), 0, "", what, "fetch the model again")])
