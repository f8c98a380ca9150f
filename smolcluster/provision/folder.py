"""A folder of wheels on the controller: which of them one interpreter of one machine needs. Reads names and metadata.

The versions are those of constraints.txt, so nothing is solved: each requirement has one answer, or it is missing.
"""

from __future__ import annotations

import email.parser
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging import tags
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from smolcluster.errors import InputError, Problem
from smolcluster.provision.facts import Interpreter

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Wheel:
    """One file of the folder."""

    path: Path
    name: str
    version: Version
    tags: frozenset[tags.Tag]


@dataclass
class Chosen:
    """What one interpreter needs: wheels by project, and what the folder lacks, in words."""

    wheels: dict[str, Wheel] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def read_folder(folder: Path) -> tuple[Wheel, ...]:
    """Every wheel of a folder. What has another name is none."""
    found = []
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, known = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        found.append(Wheel(path, str(name), version, known))
    return tuple(found)


def read_pins(text: str) -> dict[str, str]:
    """constraints.txt: project -> version."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    pairs = [line.partition("==") for line in lines if "==" in line]
    return {str(canonicalize_name(name)): version for name, _, version in pairs}


def choose(
    wheels: Sequence[Wheel],
    wanted: Iterable[str],
    pins: Mapping[str, str],
    interpreter: Interpreter,
    *,
    build: str = "",
) -> Chosen:
    """The wheels of these requirements and all that they need. `build`: cpu or cuda where torch has several there."""
    ranks = {tag: rank for rank, tag in enumerate(supported(interpreter))}
    environment = {**interpreter.markers}
    chosen, queue = Chosen(), [(Requirement(line), "") for line in wanted]
    seen: set[tuple[str, str]] = set()
    while queue:
        need, extra = queue.pop(0)
        if need.marker is not None and not need.marker.evaluate({**environment, "extra": extra}):
            continue
        name = str(canonicalize_name(need.name))
        todo = [each for each in ("", *sorted(need.extras)) if (name, each) not in seen]
        seen.update((name, each) for each in todo)
        if not todo:
            continue
        if name not in chosen.wheels:
            pinned = SpecifierSet(f"=={pins[name]}") if name in pins else SpecifierSet()
            fitting = [
                wheel
                for wheel in wheels
                if wheel.name == name and wheel.version in need.specifier & pinned and wheel.tags & ranks.keys()
            ]
            if not fitting:
                chosen.missing.append(f"{name}{f' {pins[name]}' if name in pins else ''}")
                continue
            chosen.wheels[name] = min(fitting, key=lambda wheel: _order(wheel, ranks, build))
        queue += [(Requirement(line), each) for each in todo for line in _needs(chosen.wheels[name])]
    return chosen


def supported(interpreter: Interpreter) -> list[tags.Tag]:
    """Every tag that the interpreter takes, the best first."""
    version = interpreter.version[:2]
    number = f"{version[0]}{version[1]}"
    platforms = _platforms(interpreter)
    abis = [f"cp{number}t"] if interpreter.free_threaded else [f"cp{number}"]
    mine = list(tags.cpython_tags(version, abis, platforms))
    return [*mine, *tags.compatible_tags(version, f"cp{number}", platforms)]


def _platforms(interpreter: Interpreter) -> list[str]:
    system = interpreter.markers["sys_platform"]
    machine = interpreter.markers["platform_machine"].lower()
    if system == "win32":
        return [f"win_{'arm64' if machine == 'arm64' else machine}"]
    if system == "darwin":
        major, minor, *_ = (*(int(part) for part in interpreter.macos.split(".")), 0)
        return list(tags.mac_platforms((major, minor), machine))
    machine = _MACHINES.get(machine, machine)
    # As in PEP 600: what was built for an older C library runs with a newer one.
    newest = int(interpreter.libc[1].split(".")[1]) if interpreter.libc[0] == "glibc" else 0
    names = []
    for minor in range(newest, 4, -1):
        names.append(f"manylinux_2_{minor}_{machine}")
        names += [f"{old}_{machine}" for old, of in _LEGACY.items() if of == minor]
    return [*names, f"linux_{machine}"]


_LEGACY = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}


def _order(wheel: Wheel, ranks: Mapping[tags.Tag, int], build: str) -> tuple[bool, int, str]:
    """The build that was asked for, then the newest, then the one that fits best: smaller is better."""
    local = wheel.version.local or ""
    asked = local.startswith("cu") if build == "cuda" else local == build
    rank = min(ranks[tag] for tag in wheel.tags if tag in ranks)
    return (bool(build) and not asked, rank, wheel.path.name)


def _needs(wheel: Wheel) -> list[str]:
    try:
        with zipfile.ZipFile(wheel.path) as archive:
            inside = [each for each in archive.namelist() if each.count("/") == 1]
            text = archive.read(next(each for each in inside if each.endswith(".dist-info/METADATA")))
    except (zipfile.BadZipFile, StopIteration):
        what = "is no whole wheel, perhaps half of a download"
        raise InputError([Problem(str(wheel.path), 0, "", what, "download it again")]) from None
    return email.parser.BytesHeaderParser().parsebytes(text).get_all("Requires-Dist") or []
