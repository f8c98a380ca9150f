"""Tensors out of a safetensors folder, one at a time, by name: a stage reads its own and touches no other.

One file, or several with an index. Weights that nobody vouches for are safe to read: safetensors holds numbers only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from smolcluster.errors import InputError, Problem

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class Tensors:
    """The folder's tensors. `read` lists the names whose values were read so far."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self.read: list[str] = []
        if (folder / INDEX).is_file():
            try:
                listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
                # Only names of the folder itself: an index is no way out of it.
                self._files = {str(name): folder / Path(file).name for name, file in listed.items()}
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise self._problem(INDEX, f"cannot be read: {error}") from error
        else:
            self._files = dict.fromkeys(self._handle(folder / WEIGHTS).keys(), folder / WEIGHTS)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> tuple[str, ...]:
        """All names, without opening what is not open yet."""
        return tuple(self._files)

    def get(self, name: str) -> Tensor:
        """A tensor in memory of its own. InputError when the folder has none of that name."""
        if name not in self._files:
            raise self._problem(WEIGHTS, f"has no tensor {name}")
        file = self._files[name]
        try:
            tensor: Tensor = self._handle(file).get_tensor(name).clone()
        except SafetensorError as error:
            raise self._problem(file.name, f"{name} cannot be read: {error}") from error
        self.read.append(name)
        return tensor

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            try:
                self._open[file] = self._stack.enter_context(safe_open(file, framework="pt"))
            except FileNotFoundError:
                raise self._problem("", f"has no {file.name}") from None
            except (OSError, SafetensorError) as error:
                raise self._problem(file.name, f"cannot be read: {error}") from error
        return self._open[file]

    def _problem(self, name: str, what: str) -> InputError:
        fix = "give a model folder in Hugging Face format, with its safetensors files"
        return InputError([Problem(str(self._folder / name), 0, "", what, fix)])


@contextlib.contextmanager
def open_tensors(folder: Path) -> Iterator[Tensors]:
    """The tensors of a folder; the files are let go at the end. InputError when there are none."""
    with ExitStack() as stack:
        yield Tensors(folder, stack)
