"""What one machine's setup is: which interpreter, which wheels are sent, what pip is asked for; or why it cannot be.

Pure but for reading the folder of wheels. Carried out by node.py on the machine.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from smolcluster.files import hash_of
from smolcluster.provision.facts import Found, Interpreter
from smolcluster.provision.folder import Chosen, choose, read_folder, read_pins
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Device, Kind

Build = Literal["", "cpu", "cuda"]
# ready: nothing to do; install: send and install; python: no interpreter; pip: one that cannot make an environment;
# left: it stays as it is, with what to do; refused: it cannot be done.
State = Literal["ready", "install", "python", "pip", "left", "refused"]
# The Pythons that an environment is made of: for these there are wheels of all that is pinned (tests/wheels), and for a
# newer one nobody has looked. Whoever names an interpreter gets it all the same.
PYTHONS = ((3, 11), (3, 12), (3, 13))
_NO_PYTHON = "there is no Python from 3.11 to 3.13"
# PyTorch's wheels for Macs are built for it.
_MACOS = 14
# What is kept of a wheel, unpacked, and its wheel beside it; measured on PyTorch's.
_UNPACKED = 5
_JETSON = (
    "a Jetson: its PyTorch is NVIDIA's own, for its JetPack, and cannot come from here. Make an environment with that, "
    "`pip install` smolcluster there by hand, and name its interpreter as `python:` in the inventory"
)
_HEAVY = (
    "pip takes PyTorch's ordinary build here, which brings several GB of CUDA; for the CPU build give pip's options as "
    '-e torch_cpu_args="..." (as PIP_ARGS of make)'
)
_NO_CUDA = (
    "there is an NVIDIA card, which PyTorch's ordinary build for Windows does not use: give pip's options for the CUDA "
    'build as -e torch_cuda_args="...", or say `device: cpu` in the inventory'
)

# PyTorch is built for none of these, whatever pip would try.
_NO_BUILD = "for which there is no PyTorch"
_UNFIT = {
    "linux": "install a 64-bit system (Raspberry Pi OS: the 64-bit image)",
    "darwin": "on an Apple chip, python.org's Python 3.12 (-e interpreter=PATH); an Intel Mac cannot take part",
    "win32": "python.org's 64-bit Python 3.12 for x86-64",
}


class Wanted(Frozen):
    """What setup.yml was asked for, for one machine. Texts of pip's options are split as a shell would."""

    kind: Kind
    device: Device
    wheel: Path
    pins: str
    extras: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    folder: Path | None = None
    python: str = ""
    pip_args: str = ""
    torch_cpu_args: str = ""
    torch_cuda_args: str = ""


class Step(Frozen):
    """What is done on a machine. `send` are files of the controller, `order` is node.py's."""

    state: State
    why: str = ""
    notes: tuple[str, ...] = ()
    send: tuple[str, ...] = ()
    order: dict[str, Any] = Field(default_factory=dict)


def decide(found: Found, wanted: Wanted) -> Step:
    """The step of a machine."""
    if found.jetson:
        return Step(state="left", why=_JETSON)
    build = _build(found, wanted)
    wheel_hash = hash_of(wanted.wheel)
    mark = _fingerprint(wheel_hash, wanted, build)
    if found.note.get("fingerprint") == mark:
        return Step(state="ready")
    asked = tuple(one for one in found.interpreters if wanted.python or one.version[:2] in PYTHONS)
    if not asked:
        if wanted.python:
            return Step(state="refused", why=f"{wanted.python} is no Python 3.11 or newer")
        # Before one is fetched for nothing.
        if _too_old(found.macos):
            return Step(state="refused", why=_old_macos(found.macos))
        return Step(state="python", why=_NO_PYTHON)
    able = tuple(one for one in asked if not _unfit(one))
    if not able:
        return Step(state="refused", why=_unfit(asked[0]))
    interpreter, chosen = _interpreter(able, wanted, build)
    if chosen.missing:
        named = f"{wanted.folder} lacks for Python {_dotted(interpreter)} there: {', '.join(chosen.missing)}"
        return Step(
            state="refused", why=f"{named}\n    fix: python -m pip download -c constraints.txt -d FOLDER '.[serve]'"
        )
    pip_wheel = "" if interpreter.pip else _pip_wheel(wanted)
    if not interpreter.venv or not (interpreter.pip or pip_wheel):
        return Step(state="pip", why=f"{interpreter.python} has no pip for a new environment (ensurepip)")
    send = {path.name: hash_of(path) for path in _files(chosen, wanted, pip_wheel)}
    sizes = sum(path.stat().st_size for path in _files(chosen, wanted, pip_wheel)) // 2**20
    if found.free_mb < _UNPACKED * sizes and not found.note:
        return Step(state="refused", why=f"{found.free_mb} MB are free there, and about {_UNPACKED * sizes} are needed")
    same = found.note.get("python") == interpreter.python and found.note.get("build") == build
    order = {
        "python": interpreter.python,
        "keep_venv": same,
        "wheel": wanted.wheel.name,
        "files": send,
        "extras": list(wanted.extras),
        "pins": wanted.pins,
        "offline": wanted.folder is not None,
        "pip_args": _arguments(wanted, build),
        "pip_wheel": pip_wheel,
        "note": {
            "fingerprint": mark,
            "python": interpreter.python,
            "build": build,
            "wheel": wheel_hash,
            "pins": hashlib.sha256(wanted.pins.encode()).hexdigest(),
            "extras": list(wanted.extras),
        },
    }
    lacking = [path for path in _files(chosen, wanted, pip_wheel) if found.wheels.get(path.name) != send[path.name]]
    notes = _notes(wanted, build)
    return Step(state="install", notes=notes, send=tuple(str(path) for path in lacking), order=order)


def _unfit(one: Interpreter) -> str:
    """Why PyTorch cannot be had for an interpreter, and what to do; empty where it can."""
    system, machine = one.markers["sys_platform"], one.markers["platform_machine"].lower()
    # A kernel of 64 bits says so to a system of 32 bits, too.
    if one.bits != 64:
        what = "is a 32-bit one"
    elif (system, machine) in (("darwin", "x86_64"), ("win32", "arm64")):
        what = f"is one for {machine}"
    elif _too_old(one.macos):
        return _old_macos(one.macos)
    else:
        return ""
    return f"{one.python} {what}, {_NO_BUILD}\n    fix: {_UNFIT.get(system, 'leave it out: -e nodes=...')}"


def _too_old(macos: str) -> bool:
    """Whether a Mac's system is one that PyTorch is not built for; not where it is unknown. To programs of before them
    all newer ones are 10.16, and a Mac that really has an older one has no Apple chip.
    """
    first = macos.partition(".")[0]
    return first.isdigit() and 10 < int(first) < _MACOS


def _old_macos(macos: str) -> str:
    fix = f"on an Apple chip, update it to macOS {_MACOS} or newer; an Intel Mac cannot take part"
    return f"it has macOS {macos}, {_NO_BUILD}\n    fix: {fix}"


def _build(found: Found, wanted: Wanted) -> Build:
    """Which of PyTorch's builds: a Mac has one, for its own card too."""
    if wanted.kind == "macos":
        return ""
    return "cuda" if wanted.device == "cuda" or (wanted.device == "auto" and found.cuda) else "cpu"


def _fingerprint(wheel_hash: str, wanted: Wanted, build: Build) -> str:
    """What an install is the same by. Where its wheels came from does not matter: the pins say which they are."""
    what = [wheel_hash, wanted.pins, sorted(wanted.extras), build, wanted.python]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _interpreter(able: tuple[Interpreter, ...], wanted: Wanted, build: Build) -> tuple[Interpreter, Chosen]:
    """The first that everything is there for."""
    if wanted.folder is None:
        whole = [one for one in able if one.venv and one.pip]
        return (whole or able)[0], Chosen()
    wheels, pins = read_folder(wanted.folder), read_pins(wanted.pins)
    tried = [(one, choose(wheels, wanted.requirements, pins, one, build=build)) for one in able]
    return min(tried, key=lambda each: len(each[1].missing))


def _files(chosen: Chosen, wanted: Wanted, pip_wheel: str) -> list[Path]:
    brought = [] if wanted.folder is None or not pip_wheel else [wanted.folder / pip_wheel]
    return [*sorted(wheel.path for wheel in chosen.wheels.values()), *brought, wanted.wheel]


def _pip_wheel(wanted: Wanted) -> str:
    """pip out of the folder, for an interpreter that brings none."""
    known = [wheel for wheel in read_folder(wanted.folder) if wheel.name == "pip"] if wanted.folder else []
    return max(known, key=lambda wheel: wheel.version).path.name if known else ""


def _arguments(wanted: Wanted, build: Build) -> list[str]:
    of_build = {"": "", "cpu": wanted.torch_cpu_args, "cuda": wanted.torch_cuda_args}[build]
    return [*shlex.split(wanted.pip_args), *shlex.split(of_build)]


def _notes(wanted: Wanted, build: Build) -> tuple[str, ...]:
    if wanted.folder is not None:
        return ()
    if build == "cpu" and wanted.kind == "linux" and not (wanted.torch_cpu_args or wanted.pip_args):
        return (_HEAVY,)
    if build == "cuda" and wanted.kind == "windows" and not (wanted.torch_cuda_args or wanted.pip_args):
        return (_NO_CUDA,)
    return ()


def _dotted(interpreter: Interpreter) -> str:
    machine = interpreter.markers["platform_machine"]
    return f"{'.'.join(map(str, interpreter.version))} ({interpreter.markers['sys_platform']}, {machine})"
