"""Layers of settings: shipped < overlay < inventory defaults < the file of a flag < --override.

Layers are laid over each other section by section; lists and plain values are replaced whole. Every key keeps the
document it came from, so that a later complaint names the right file and line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from smolcluster.errors import Problem
from smolcluster.spec.document import Document, KeyPath, Tree

# nn_config.yaml's flat keys and where they stand in the sections that both training files share.
_FLAT: dict[KeyPath, KeyPath] = {
    ("batch_size",): ("training", "batch_size"),
    ("learning_rate",): ("training", "learning_rate"),
    ("num_epochs",): ("training", "epochs"),
    ("eval_steps",): ("training", "eval_steps"),
    ("track_gradients",): ("training", "track_gradients"),
    ("polyak_alpha",): ("training", "polyak_alpha"),
    ("dataset", "name"): ("data", "dataset"),
    ("training", "grad_clip_norm"): ("gradient_clipping", "max_norm"),
}
_ABSENT = object()


@dataclass(frozen=True)
class Merged:
    """The settings after all layers (lowest first), and for every key the document that had the last word."""

    data: Tree
    origin: dict[KeyPath, Document]
    layers: tuple[Document, ...] = ()

    def source(self, path: KeyPath) -> Document | None:
        """The document the key (or the nearest one above it) came from; None for a default nobody wrote."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origin:
                return self.origin[path[:end]]
        return None

    def height(self, path: KeyPath) -> int:
        """How high the layer lies that a key came from; -1 for a default nobody wrote."""
        source = self.source(path)
        return next((index for index, layer in enumerate(self.layers) if layer is source), -1)

    def below(self, path: KeyPath, other: KeyPath) -> bool:
        """Whether a key comes from a lower layer than another. All that was typed as flags is one layer."""
        mine, others = self.source(path), self.source(other)
        typed = mine is not None and others is not None and is_flag(mine) and is_flag(others)
        return self.height(path) < self.height(other) and not typed

    def problem(self, path: KeyPath, what: str, fix: str = "") -> Problem:
        """A Problem at the place the key came from."""
        source = self.source(path)
        return source.problem(path, what, fix) if source else Document("", {}, {}).problem(path, what, fix)

    def note(self, path: KeyPath, said: object, taken: str, why: str = "") -> str:
        """A note at the place the key came from."""
        source = self.source(path)
        return (source or Document("defaults", {}, {})).note(path, said, taken, why)


def is_flag(document: Document) -> bool:
    """Whether a document is a flag that was typed, and no file."""
    return document.file.startswith("--") and not document.lines


def merge(layers: Sequence[Document]) -> Merged:
    """Lay the documents over each other, the first lowest."""
    data: Tree = {}
    origin: dict[KeyPath, Document] = {}
    for layer in layers:
        _lay(data, layer.data, layer, (), origin)
    return Merged(data, origin, tuple(layers))


def _lay(under: Tree, over: Tree, layer: Document, path: KeyPath, origin: dict[KeyPath, Document]) -> None:
    for key, value in over.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            _lay(under[key], value, layer, here, origin)
            continue
        for old in [old for old in origin if old[: len(here)] == here]:
            del origin[old]
        origin[here] = layer
        if isinstance(value, dict):
            under[key] = {}
            _lay(under[key], value, layer, here, origin)
        else:
            under[key] = value


def canonical_model(document: Document) -> Document:
    """A training file with every setting in its one place: nn's flat keys in sections, grad_clip_norm as clipping."""
    data = _copy(document.data)
    lines = dict(document.lines)
    for old, new in _FLAT.items():
        value = _take(data, old)
        if value is _ABSENT:
            continue
        lines[new] = document.line(old)
        if old == ("training", "grad_clip_norm"):
            section = data.setdefault("gradient_clipping", {})
            section.setdefault("enabled", value is not None)
            if value is not None:
                section.setdefault("max_norm", value)
            continue
        _put(data, new, value)
    section = data.get("data")
    if isinstance(section, dict) and "dataset" in section:
        section.setdefault("path", None)  # a layer that names a data set means it, not a lower layer's path
    return replace(document, data=data, lines=lines)


def canonical_port(document: Document) -> Document:
    """`port: 65432` as the default of a map, so that maps and numbers of different layers can be laid together."""
    port = document.data.get("port")
    if not isinstance(port, int):
        return document
    return replace(document, data={**document.data, "port": {"default": port}})


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _take(tree: Tree, path: KeyPath) -> Any:
    """Remove and give the value at the path; _ABSENT when there is none."""
    for part in path[:-1]:
        below = tree.get(str(part))
        if not isinstance(below, dict):
            return _ABSENT
        tree = below
    return tree.pop(str(path[-1]), _ABSENT)


def _put(tree: Tree, path: KeyPath, value: object) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(str(part), {})
    tree[str(path[-1])] = value
