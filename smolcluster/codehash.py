"""Which code this is. Two installations of one version differ when a `git pull` or an edit reached only one of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

# What a checkout has besides, and an installed package has not.
_NOT_OURS = frozenset({"__pycache__", "node_modules"})


def code_hash(package: Path | None = None) -> str:
    """12 hexadecimal digits over names and lines of the modules here, the same for a checkout and for its wheel.

    Some 40 ms. OSError. What is no module (the shipped YAMLs, the pages) is not in it.
    """
    root = package or Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(_modules(root), key=lambda one: one.relative_to(root).as_posix()):
        # A checkout on Windows may have other ends of lines.
        text = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:12]


def _modules(root: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _NOT_OURS]
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return found
