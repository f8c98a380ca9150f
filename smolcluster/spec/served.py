"""Which model is served: an entry of model_config_inference.yaml, a model folder, or a name of model_weights.yaml.

For the latter two the entry is made from what config.json says. Where weights are is somebody else's to find.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.document import Document, KeyPath, Tree
from smolcluster.spec.layers import Merged, is_flag, merge
from smolcluster.spec.modelfile import Decoding, ServedModel
from smolcluster.spec.pretrained import TOKENIZER_FILES
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.shape import CONFIG, GENERATION, DecoderShape, read_shape
from smolcluster.spec.shipped import overlays, shipped, weights_table
from smolcluster.spec.validate import known_keys, validated

FILE = "model_config_inference.yaml"
# Of a model that nobody wrote an entry for: caches are laid out for its context, and 128 k positions fill a machine.
MOST_CONTEXT = 2048
# What a served model needs besides its weights and config.json, where it has it.
BESIDE = (
    *TOKENIZER_FILES,
    GENERATION,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
# An entry's keys that a flag may set, for this once.
SETTINGS = known_keys(ServedModel) - {"hf_model_name", "weights_model_name", "num_layers"}


@dataclass(frozen=True)
class ModelFolder:
    """A model in Hugging Face format. `source` and `licence` are for people; `how` it came there now, if it did."""

    folder: Path
    source: str
    licence: str
    how: str = ""


Find = Callable[[str], ModelFolder]


@dataclass(frozen=True)
class _Layered(Document):
    """An entry with flags laid over it: what is wrong with a key is said of the file, or flag, that it came from."""

    layers: Merged = field(kw_only=True)

    def problem(self, path: KeyPath, what: str, fix: str = "") -> Problem:
        """A Problem at that key, by the name it has where it was written."""
        source = self.layers.source((*self.prefix, *path)) if path else None
        if source is None:
            return super().problem(path, what, fix)
        return source.problem(path if is_flag(source) else (*self.prefix, *path), what, fix)


@dataclass(frozen=True)
class Choice:
    """The model to serve; without `found` and `shape` where nobody looked for its weights."""

    name: str
    model: ServedModel
    found: ModelFolder | None = None
    shape: DecoderShape | None = None
    inputs: Mapping[str, str] | None = None


def choose(name: str, inventory: Path, settings: list[Document], find: Find | None) -> Choice:
    """The model a person means by `name`. `find` gives the folder of a name of model_weights.yaml, or of an absolute
    path.

    `settings` are flags laid over its entry. ConfigError: there is none, or entry and folder contradict each other.
    """
    own, problems = overlays(inventory)
    if problems:
        raise ConfigError(problems)
    files = [document for document in (shipped(FILE), own.get(FILE)) if document is not None]
    inputs = {document.file: document.sha256 for document in files}
    entries = merge(files)
    if name in entries.data:
        over = [Document(flag.file, {name: flag.data}, {}) for flag in settings]
        entries = merge([*files, *over])
        source = entries.source((name,))
        where = source.file if source is not None else FILE
        model = validated(_Layered(where, entries.data[name], {}, prefix=(name,), layers=entries), ServedModel)
        if find is None:
            return Choice(name, model, inputs=inputs)
        found = find(model.weights_model_name)
        shape = read_shape(found.folder)
        problems = _contradictions(name, model, shape, entries)
        if problems:
            raise ConfigError(problems)
        return Choice(name, model, found, shape, inputs | _hash(found.folder))
    table = weights_table(inventory)
    path = Path(name).expanduser()
    if not path.exists() and name not in table and not _maybe_hub_id(name):
        known = list(dict.fromkeys((*entries.data, *table)))
        fix = did_you_mean(name, known, f"models: {listed(known)}; or give a model folder, or a hub id")
        raise ConfigError([Problem(f"--model {name}", 0, "", "there is no such model to serve", fix)])
    if not path.exists() and name not in table and find is not None and len(path.parts) > 1 and _here(path):
        runs = sorted(file.parent.parent for file in path.parent.glob(f"*/model/{CONFIG}"))
        fix = f"those with a model: {listed(map(str, reversed(runs[-3:])))}" if runs else "give a model folder or a run"
        raise ConfigError([Problem(f"--model {name}", 0, "", "there is no such folder", fix)])
    # What a person has before their eyes comes first; and no name of the table is absolute.
    wanted = str(path.absolute()) if path.exists() else name
    found = find(wanted) if find is not None else ModelFolder(path, "", "")
    shape = read_shape(found.folder)
    tree = merge([Document(name, _entry(name, shape), {}), *settings])
    model = validated(_Layered(settings[-1].file if settings else name, tree.data, {}, layers=tree), ServedModel)
    problems = _contradictions("", model, shape, tree)
    if problems:
        raise ConfigError(problems)
    return Choice(name, model, found, shape, inputs | _hash(found.folder))


def _maybe_hub_id(name: str) -> bool:
    """Whether it has the form owner/name, as nothing else here has; `find` looks closer."""
    return len(name.split("/")) == 2 and all(name.split("/")) and not name.startswith((".", "~"))


def _here(path: Path) -> bool:
    """Whether a path that is not there is one of this machine's, and no repository of the hub."""
    return path.parts[0] == "runs" or Path(path.parts[0]).is_dir()


def _hash(folder: Path) -> dict[str, str]:
    file = folder / CONFIG
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}


def _entry(name: str, shape: DecoderShape) -> Tree:
    context = min(MOST_CONTEXT, shape.max_positions)
    decoding = {"greedy": Decoding(), "sampling": Decoding(), "top_p": Decoding(p=0.9), "top_k": Decoding(k=40)}
    return {
        "hf_model_name": name,
        "weights_model_name": name,
        "num_layers": shape.layers,
        "ctx_length": context,
        "max_new_tokens": min(256, context),
        "decoding_strategies": {key: how.model_dump(exclude_none=True) for key, how in decoding.items()},
    }


def _contradictions(name: str, model: ServedModel, shape: DecoderShape, entries: Merged) -> list[Problem]:
    """What an entry says of its model and the model's config.json denies."""
    prefix = (name,) if name else ()
    problems = []
    if model.num_layers != shape.layers:
        what = f"says {model.num_layers}, and the model has {shape.layers} layers"
        problems.append(entries.problem((*prefix, "num_layers"), what, f"write {shape.layers}"))
    if model.ctx_length > shape.max_positions:
        what = f"says {model.ctx_length}, and the model has {shape.max_positions} positions"
        problems.append(entries.problem((*prefix, "ctx_length"), what, f"write {shape.max_positions} or less"))
    return problems
