"""A folder of wheels that installs in seconds: every dependency is an empty wheel of the version that is pinned, and
one of them brings the packages of the environment that runs the tests into view."""

from __future__ import annotations

import sysconfig
import zipfile
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from smolcluster.provision.folder import read_pins
from smolcluster.provision.wheel import requirements

ROOT = Path(__file__).resolve().parents[2]


def make_folder(folder: Path) -> Path:
    """Wheels of all that smolcluster[serve] needs itself. PyTorch's is the one that brings the real packages."""
    folder.mkdir(parents=True, exist_ok=True)
    pins = read_pins((ROOT / "constraints.txt").read_text())
    for line in requirements(ROOT, ("serve",)):
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({**default_environment(), "extra": ""}):
            name = canonicalize_name(need.name).replace("-", "_")
            files = {"seen.pth": f"{sysconfig.get_path('purelib')}\n"} if name == "torch" else {}
            make_wheel(folder, name, pins[canonicalize_name(need.name)], files)
    return folder


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str], tag: str = "py3-none-any") -> Path:
    """A wheel of a few texts."""
    info = f"{name}-{version}.dist-info"
    entries = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{each},,\n" for each in [*entries, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in {**entries, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(each), text)
    return path
