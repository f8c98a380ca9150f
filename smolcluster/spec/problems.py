"""Validation errors in words: pydantic's are for programmers, these are for the person who wrote the file."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from smolcluster.errors import Problem
from smolcluster.spec.document import Document, KeyPath, Tree, dotted
from smolcluster.spec.numbers import number_advice

_COMPARISONS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_NUMBERS = {"int": "a whole number", "float": "a number"}
_WANTED = {
    "bool": ("true or false", "write true or false without quotes"),
    "string": ("text", "put it in quotes"),
    "list": ("a list", "write [a, b] or lines that start with -"),
    "tuple": ("a list", "write [a, b] or lines that start with -"),
    "dict": ("a section", "put `key: value` lines below it"),
    "model": ("a section", "put `key: value` lines below it"),
}
# A key with its section: no address, no name of a host with a number.
_KEYS = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)+")
# What other trainers call the same thing.
_ELSEWHERE = {
    "amp": "precision", "mixed_precision": "precision", "dtype": "precision", "bf16": "precision", "fp16": "precision",
    "gradient_checkpointing": "activation_checkpointing", "torch_compile": "compile",
    "gradient_accumulation_steps": "grad_accumulation",
    "lr": "learning_rate", "steps": "max_steps", "max_iters": "max_steps", "iterations": "max_steps",
    "ddp": "classicdp", "dp": "classicdp", "zero": "fsdp", "deepspeed": "fsdp", "pp": "mp", "pipeline": "mp",
    "local_sgd": "diloco", "parameter_server": "syncps",
    "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float32": "fp32", "full": "fp32",
}  # fmt: skip


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean x?` for the nearest known word, else the other advice. A key may be said without its section."""
    names = {name.lower(): name for name in known}
    section, dot, last = word.lower().rpartition(".")
    lasts = {key.rpartition(".")[2]: name for key, name in reversed(names.items()) if _KEYS.fullmatch(key)}
    elsewhere = _ELSEWHERE.get(last, "")
    known_there = names.get(section + dot + elsewhere) or lasts.get(elsewhere)
    if known_there:
        return f"did you mean {known_there}?"
    # Nearer than a whole name needs to be: many sections have keys that look alike.
    for those, cutoff in ((names if dot else lasts | names, 0.8), (names, 0.6)):
        near = difflib.get_close_matches(word.lower(), list(those), n=1, cutoff=cutoff)
        if near:
            return f"did you mean {those[near[0]]}?"
    return otherwise


def listed(words: Iterable[str]) -> str:
    """The words in one line, for advice."""
    return ", ".join(words) or "none"


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """Every error of one validation as Problems of that file, each key once."""
    found: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        path = _existing(item["loc"], document.data)
        if item["type"] == "missing":
            path = item["loc"]
        if path not in found:
            what, fix = _words(item, path, model)
            found[path] = document.problem(path, what, fix)
    return list(found.values())


def _existing(loc: KeyPath, tree: object) -> KeyPath:
    """The part of pydantic's location that is a key of the file: it appends the names of union members and `[key]`."""
    path: KeyPath = ()
    for part in loc:
        if isinstance(tree, list):
            inside = isinstance(part, int) and part < len(tree)
            tree = tree[part] if isinstance(part, int) and inside else None
        else:
            inside = isinstance(tree, Mapping) and part in tree
            tree = tree[part] if isinstance(tree, Mapping) and inside else None
        if not inside:
            break
        path = (*path, part)
    return path


def _words(item: Mapping[str, Any], path: KeyPath, model: type[BaseModel]) -> tuple[str, str]:
    kind: str = item["type"]
    context: Tree = item.get("ctx", {})
    given = _shown(item["input"])
    if kind == "extra_forbidden":
        known = keys_at(model, path[:-1])
        section = dotted(path[:-1]) or "this file"
        return "unknown key", did_you_mean(str(path[-1]), known, f"keys of {section}: {listed(known)}")
    if kind == "missing":
        return "is missing", f"add `{path[-1]}: {'1' if path[-1] == 'schema' else '...'}`"
    if kind == "literal_error":
        allowed = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        advice = did_you_mean(str(item["input"]), allowed.split(", "), "write one of these")
        return f"must be one of {allowed}, not {given}", advice
    if kind in _COMPARISONS:
        word, key = _COMPARISONS[kind]
        return f"must be {word} {context[key]:g}, not {given}", number_advice(model, item["loc"], item["input"])
    if kind == "finite_number":
        return f"must be a finite number, not {given}", number_advice(model, item["loc"], item["input"])
    if kind == "value_error":
        what, _, fix = str(context["error"]).partition(" | ")
        return what, fix
    number = kind.split("_")[0]
    if number in _NUMBERS:
        advice = number_advice(model, item["loc"], item["input"], whole=number == "int")
        return f"must be {_NUMBERS[number]}, not {given}", advice
    wanted, fix = _WANTED.get(kind.split("_")[0], ("", ""))
    if wanted:
        return f"must be {wanted}, not {given}", fix
    return str(item["msg"]), ""


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return f'the text "{value}"' if isinstance(value, str) else str(value)


def keys_at(model: type[BaseModel], path: KeyPath) -> tuple[str, ...]:
    """The keys a file model knows in the section at `path`; empty where any key is allowed."""
    annotation: Any = model
    for part in path:
        annotation = _member(annotation, part)
    found = _model_in(annotation)
    return tuple(info.alias or name for name, info in found.model_fields.items()) if found else ()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return next((found for inner in typing.get_args(annotation) if (found := _model_in(inner))), None)
    return None


def _member(annotation: Any, part: str | int) -> Any:
    """The annotation of a key or an item below another annotation."""
    model = _model_in(annotation)
    if model is not None:
        fields = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
        return fields.get(str(part))
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, list):
        return inner[-1]
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return next((found for one in inner if (found := _member(one, part)) is not None), None)
    return None
