"""uv's program out of its wheel: from a folder of wheels, or from the index that the controller's pip knows."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.utils import parse_wheel_filename

from smolcluster.errors import InputError, Problem
from smolcluster.files import make_folder
from smolcluster.provision.folder import read_folder

_DOWNLOAD_S = 600.0
# What uname says -> the platform in the wheel's name, and what pip is asked for.
_PLATFORMS = {
    ("Darwin", "arm64"): ("macosx", "arm64", "macosx_11_0_arm64"),
    ("Darwin", "x86_64"): ("macosx", "x86_64", "macosx_10_12_x86_64"),
    ("Linux", "x86_64"): ("manylinux", "x86_64", "manylinux2014_x86_64"),
    ("Linux", "aarch64"): ("manylinux", "aarch64", "manylinux2014_aarch64"),
    ("Windows", "AMD64"): ("win", "amd64", "win_amd64"),
    ("Windows", "ARM64"): ("win", "arm64", "win_arm64"),
}


def fetch_uv(system: str, machine: str, cache: Path, version: str, folder: Path | None) -> Path:
    """The program for a machine, unpacked in the cache. InputError if there is none."""
    if (system, machine) not in _PLATFORMS:
        raise _none(f"there is no uv for {system} on {machine}")
    wheel = _in_folder(folder, system, machine) if folder is not None else _download(system, machine, cache, version)
    with zipfile.ZipFile(wheel) as archive:
        inside = [
            name for name in archive.namelist() if name.rpartition("/")[2] in ("uv", "uv.exe") and ".data/" in name
        ]
        if len(inside) != 1:
            raise _none(f"{wheel} holds no program")
        content = archive.read(inside[0])
    program = cache / "uv" / f"{system}-{machine}" / inside[0].rpartition("/")[2]
    make_folder(program.parent)
    new = program.with_name(f".{program.name}.part")
    new.write_bytes(content)
    new.replace(program)
    return program


def _in_folder(folder: Path, system: str, machine: str) -> Path:
    name, arch, _ = _PLATFORMS[system, machine]
    for wheel in read_folder(folder):
        platforms = {tag.platform for tag in parse_wheel_filename(wheel.path.name)[3]}
        if wheel.name == "uv" and any(each.startswith(name) and each.endswith(arch) for each in platforms):
            return wheel.path
    raise _none(f"{folder} has no wheel of uv for {system} on {machine}")


def _download(system: str, machine: str, cache: Path, version: str) -> Path:
    place = cache / "uv" / f"{system}-{machine}-{version}"
    if kept := sorted(place.glob("uv-*.whl")):
        return kept[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform"]
    command += [_PLATFORMS[system, machine][2], "--dest", str(place), f"uv=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_S)
    found = sorted(place.glob("uv-*.whl"))
    if done.returncode or not found:
        words = (done.stderr.strip() or "pip gave nothing").splitlines()[-1]
        raise _none(f"the controller cannot download it ({words})")
    return found[0]


def _none(what: str) -> InputError:
    return InputError([Problem("", 0, "uv", what, "put its wheel into the folder of -e wheels=")])
