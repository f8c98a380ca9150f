"""Settings that stand in no file of their own: flags, `--override key=value`, and the inventory's `defaults`.

Each becomes a document, is cut into what belongs to the model's config and what to the cluster's, and is then a layer
like any file.
"""

from __future__ import annotations

import re

from pydantic import BaseModel

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.clusterfile import AUTO, CLUSTER_FILES
from smolcluster.spec.document import Document, Tree, parse_value
from smolcluster.spec.modelfile import MODEL_FILES, ServedModel
from smolcluster.spec.problems import did_you_mean, keys_at, listed
from smolcluster.spec.validate import known_keys

_NEXT_KEY = re.compile(r" *[A-Za-z_][A-Za-z0-9_.]*=")
# Of an inventory's defaults these fit every model; what it says of model, training, lr_schedule and data is said of the
# GPT. Another model's settings stand in its own file beside the inventory (configs/nn_config.yaml).
_ANY_MODEL = {"gradient_clipping", "checkpoint", "logging"}
# In what every run shares it says which model is served. A training run's own cluster YAML repeats its model's name.
_SERVED_ONLY = {"model_name"}


def flag(name: str, shown: str, tree: Tree) -> Document:
    """A flag's settings as a document, called in messages as the person typed it."""
    return Document(f"{name} {shown}", tree, {})


def separated(text: str) -> list[str]:
    """`a=1,b=2` as the settings it holds. A comma, or a new line, separates where a new key= follows, outside of quotes
    and brackets: `nodes=[a,b],balance={a: 2, b: 1},data.path="x,y=3.txt"` are three.
    """
    settings, begin, inside, quote = [], 0, 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and text[place - 1 : place] in ("=", " ", "[", "{", ","):  # don't: no quote inside a word
            quote = letter
        elif letter in "[{":
            inside += 1
        elif letter in "]}":
            inside -= 1
        elif letter in ",\n" and inside <= 0 and _NEXT_KEY.match(text, place + 1):
            settings.append(text[begin:place].strip())
            begin = place + 1
    return [*settings, text[begin:].strip()]


def override(text: str) -> Document:
    """`training.batch_size=16` as a document. ConfigError when it is not key=value with a YAML value."""
    name = f"--override {text}"
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError([Problem(name, 0, "", "is not key=value", "write --override training.batch_size=16")])
    given = parse_value(value, name)
    if parts == ["nodes"] and isinstance(given, str) and given != AUTO:
        raise ConfigError([Problem(name, 0, "nodes", "must be a list of machines, not a text", f"--nodes {given}")])
    tree: Tree = {parts[-1]: given}
    for part in reversed(parts[:-1]):
        tree = {part: tree}
    return Document(name, tree, {})


def cut(document: Document, strategy: str, model: str, lenient: bool) -> tuple[Document, Document, list[Problem]]:
    """The model's part, the cluster's part, and Problems of keys that are neither.

    A key that only another strategy has is a Problem, or with `lenient` (an inventory's defaults, which every run
    shares) left out.
    """
    model_keys = known_keys(MODEL_FILES[model])
    cluster_keys = known_keys(CLUSTER_FILES[strategy])
    problems: list[Problem] = []
    for key in document.data:
        if key in model_keys or key in cluster_keys:
            continue
        owners = [name for name, file in CLUSTER_FILES.items() if key in known_keys(file)]
        other_models = [name for name, file in MODEL_FILES.items() if key in known_keys(file)]
        if lenient and (owners or other_models):
            continue
        if owners:
            what = f"is a key of {listed(owners)}; this run's strategy is {strategy}"
            fix = f"use --strategy {owners[0]}, or leave it out"
        elif other_models:
            what = f"is a key of the {other_models[0]} model; this run's model is {model}"
            own = [name for name in _dotted_keys(strategy, model) if name.endswith(f".{key}")]
            fix = f"write {own[0]}, or leave it out" if own else "leave it out"
        else:
            what = "unknown key"
            fix = did_you_mean(
                _leaf(document.data, key), _dotted_keys(strategy, model), "documentation/configuration.md has all keys"
            )
        problems.append(document.problem((key,), what, fix))
    if lenient and model != "gpt":
        model_keys &= _ANY_MODEL
    if lenient and strategy != "inference":
        cluster_keys -= _SERVED_ONLY
    return document.only(model_keys), document.only(cluster_keys), problems


def _leaf(tree: Tree, key: str) -> str:
    """The whole dotted key of a one-setting document, for a better guess at what was meant."""
    value = tree[key]
    while isinstance(value, dict) and len(value) == 1:
        (part,) = value
        key, value = f"{key}.{part}", value[part]
    return key


def _dotted_keys(strategy: str, model: str) -> list[str]:
    """Every key a person may override, dotted, two levels deep (no file is deeper where overriding makes sense)."""
    keys: list[str] = []
    # A model that is only served has no settings of training, and a few of its own.
    of_model = ServedModel if strategy == "inference" else MODEL_FILES[model]
    files: tuple[type[BaseModel], ...] = (of_model, CLUSTER_FILES[strategy])
    for file in files:
        for name in keys_at(file, ()):
            keys.append(name)
            keys += [f"{name}.{inner}" for inner in keys_at(file, (name,))]
    return keys
