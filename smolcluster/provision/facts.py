"""What node.py says of a machine, as values."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from smolcluster.spec.base import Frozen


class Interpreter(Frozen):
    """A Python 3.11 or newer that is there. `pip`: whether it brings pip for a new environment. `bits`: its own, of a
    64-bit kernel perhaps 32.
    """

    python: str
    version: tuple[int, int, int]
    free_threaded: bool = False
    bits: int = 64
    venv: bool
    pip: bool
    markers: dict[str, str]
    libc: tuple[str, str]
    macos: str


class Found(Frozen):
    """A machine as it is. `note` is its runtime.json; empty if nothing whole is installed. `macos`: its version."""

    schema_: Literal[1] = Field(alias="schema")
    root: str
    interpreters: tuple[Interpreter, ...]
    note: dict[str, Any]
    wheels: dict[str, str]
    cuda: bool
    jetson: bool
    debian: bool
    free_mb: int
    macos: str = ""
    node: str = ""
