"""smolcluster's own wheel, out of the checkout: the same bytes for the same sources, with nothing left behind.

A pure wheel is a zip of the package and three texts (PEP 427), so neither setuptools nor a network is needed on the
controller. `tests/provision/test_wheel.py` compares it with the one that setuptools builds.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolcluster import __version__

_PACKAGE = "smolcluster"
# The oldest a zip knows. Nothing is compressed: what a compressor makes depends on its version.
_TIME = (1980, 1, 1, 0, 0, 0)
NAME = f"{_PACKAGE}-{__version__}-py3-none-any.whl"


def build_wheel(checkout: Path) -> bytes:
    """The wheel of the checkout whose pyproject.toml lies in that folder."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    entries = {name: (checkout / name).read_bytes() for name in sorted(_files(checkout, project))}
    info = f"{_PACKAGE}-{__version__}.dist-info"
    entries[f"{info}/METADATA"] = _metadata(project["project"]).encode()
    entries[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: smolcluster\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    scripts = "".join(f"{name} = {target}\n" for name, target in sorted(project["project"]["scripts"].items()))
    entries[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    entries[f"{info}/licenses/LICENSE"] = (checkout / "LICENSE").read_bytes()
    record = "".join(f"{name},sha256={_encoded(content)},{len(content)}\n" for name, content in entries.items())
    entries[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_STORED
            archive.writestr(entry, content)
    return packed.getvalue()


def requirements(checkout: Path, extras: tuple[str, ...]) -> tuple[str, ...]:
    """What the project and these extras of it need, as pyproject.toml says it."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return (*project["dependencies"], *(line for extra in extras for line in optional[extra]))


def extras_of(checkout: Path) -> frozenset[str]:
    """The extras there are."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return frozenset(project["optional-dependencies"])


def _files(checkout: Path, project: dict[str, Any]) -> Iterator[str]:
    """Modules of every package that is not left out, and the data that pyproject.toml names."""
    tool = project["tool"]["setuptools"]
    left_out = tool["packages"]["find"]["exclude"]
    for path in (checkout / _PACKAGE).rglob("*.py"):
        dotted = ".".join(path.parent.relative_to(checkout).parts)
        if not any(fnmatch.fnmatch(dotted, pattern) for pattern in left_out):
            yield path.relative_to(checkout).as_posix()
    for package, patterns in tool["package-data"].items():
        for pattern in patterns:
            for path in (checkout / package).glob(pattern):
                if path.is_file():
                    yield path.relative_to(checkout).as_posix()


def _of_extra(line: str, extra: str) -> str:
    """A requirement that is one of an extra alone; it may have a marker of its own already."""
    need, _, marker = line.partition(";")
    return f'{need.strip()}; ({marker.strip()}) and extra == "{extra}"' if marker else f'{need}; extra == "{extra}"'


def _metadata(project: dict[str, Any]) -> str:
    lines = ["Metadata-Version: 2.4", f"Name: {project['name']}", f"Version: {__version__}"]
    lines += [f"Summary: {project['description']}", f"License-Expression: {project['license']}"]
    lines += ["License-File: LICENSE", f"Requires-Python: {project['requires-python']}"]
    lines += [f"Requires-Dist: {line}" for line in project["dependencies"]]
    for extra, needs in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {_of_extra(line, extra)}" for line in needs]
    return "\n".join(lines) + "\n"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
