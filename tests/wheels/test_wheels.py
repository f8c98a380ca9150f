"""Every operating system finds its wheels: constraints.txt is resolved for Macs, Windows PCs and Raspberry Pis.

`make wheels` runs these; they ask the package index and download some 2 GB. uv resolves, since pip evaluates the
markers (`sys_platform == "win32"`) of the machine it runs on; pip downloads.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import Tag, mac_platforms
from packaging.utils import canonicalize_name, parse_wheel_filename

from smolcluster.provision import plan

ROOT = Path(__file__).resolve().parents[2]
# Those that setup.yml makes environments of.
PYTHONS = tuple(f"{major}.{minor}" for major, minor in plan.PYTHONS)
# What nodes and controllers install. ansible-core comes with every one, also where it cannot control (Windows).
EXTRAS = ("coreml", "dashboard", "hf", "onnx", "samples", "serve", "ssh", "tensorboard", "wandb")
# What comes with PyTorch's ordinary build for Linux. Without a CUDA card none of it is used; the CPU build, which the
# pins were made with, has none of it. It is resolved, and it alone is not downloaded: several GB.
CUDA = r"nvidia-.*|cuda-.*|triton"


@dataclass(frozen=True)
class Target:
    """A kind of machine, as uv and as pip name it. `newest` is the tag that torch's wheels have there."""

    uv: str
    pip: tuple[str, ...]

    def __str__(self) -> str:
        return self.pip[0]


def glibc(machine: str) -> tuple[str, ...]:
    """The tags that Debian 12 and Raspberry Pi OS of its time (glibc 2.36) take: pip wants them one by one."""
    older = ("2014", "2010", "1") if machine == "x86_64" else ("2014",)
    return tuple(f"manylinux{tag}_{machine}" for tag in (*(f"_2_{minor}" for minor in range(36, 16, -1)), *older))


MAC = Target("aarch64-apple-darwin", tuple(mac_platforms((14, 0), "arm64")))
WINDOWS = Target("x86_64-pc-windows-msvc", ("win_amd64",))
ARM = Target("aarch64-manylinux_2_28", glibc("aarch64"))
PC = Target("x86_64-manylinux_2_28", glibc("x86_64"))
TARGETS = (MAC, WINDOWS, ARM, PC)
# A requirement of an extra that its marker in pyproject.toml leaves out there -> why.
LEFT_OUT = {
    (WINDOWS, "coremltools"): "Apple builds it for macOS and Linux on x86-64 only: a Mac, or a PC with Linux, exports",
    (ARM, "coremltools"): "Apple builds it for macOS and Linux on x86-64 only: a Raspberry Pi exports ONNX",
}


def pins() -> dict[str, str]:
    """What constraints.txt pins: version by name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if not line.startswith("#"))
    }


def compiled(target: Target, python: str, *wanted: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """uv's answer to what `wanted` needs on such a machine, if wheels of it are all that may be taken."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
        *("--only-binary", ":all:", "--python-platform", target.uv, "--python-version", python),
        *("--constraint", "constraints.txt", *wanted),
    ]
    # torch's wheel for Macs wants macOS 14; uv supposes 13.
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    return subprocess.run(command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True, timeout=120)


def resolved(target: Target, python: str) -> dict[str, str]:
    """All that smolcluster needs on such a machine."""
    done = compiled(target, python, *(word for extra in EXTRAS for word in ("--extra", extra)), "pyproject.toml")
    assert done.returncode == 0, done.stderr
    found = dict(line.split("==") for line in done.stdout.splitlines())
    assert found, "nothing was resolved"
    return found


def asked_for() -> set[str]:
    """What pyproject.toml names itself, markers aside."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.wheels
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_what_is_pinned_has_a_wheel_everywhere(target: Target, python: str) -> None:
    pinned = pins()
    found = resolved(target, python)
    assert asked_for() - found.keys() == {name for left, name in LEFT_OUT if left == target}
    unlike = {name: version for name, version in found.items() if pinned.get(name, version) != version}
    assert not unlike, "taken in another version than the one pinned"
    unpinned = [name for name in found if name not in pinned]
    # Every Python of before 3.12 comes with setuptools, and pip freeze leaves it out.
    allowed = r"setuptools|" + (CUDA if "linux" in target.uv else r"colorama")
    assert not [name for name in unpinned if not re.fullmatch(allowed, name)], "constraints.txt pins it nowhere"


@pytest.mark.wheels
@pytest.mark.parametrize(("target", "name"), LEFT_OUT, ids=str)
def test_what_is_left_out_somewhere_has_no_wheel_there(target: Target, name: str) -> None:
    """Once it has one, pyproject.toml may ask for it there, too."""
    wanted = f"{name}=={pins()[name]}"
    done = compiled(target, PYTHONS[0], "-", given=wanted)
    assert done.returncode != 0, f"{wanted} has wheels for {target} now; left out since: {LEFT_OUT[target, name]}"
    assert f"{wanted} has no usable wheels" in done.stderr


@pytest.mark.wheels
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_the_pinned_wheels_can_be_downloaded(target: Target, tmp_path: Path) -> None:
    """All of them but CUDA's gigabytes."""
    python = PYTHONS[0]
    wanted = {name: version for name, version in resolved(target, python).items() if not re.fullmatch(CUDA, name)}
    listed = tmp_path / "wanted.txt"
    listed.write_text("".join(f"{name}=={version}\n" for name, version in wanted.items()))
    folder = tmp_path / "wheels"
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
        *("--python-version", python, *(word for tag in target.pip for word in ("--platform", tag))),
        *("--requirement", str(listed), "--dest", str(folder)),
    ]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1740)
    assert done.returncode == 0, done.stderr
    got: dict[str, str] = {}
    for wheel in folder.iterdir():
        name, version, _, tags = parse_wheel_filename(wheel.name)
        got[name] = str(version).partition("+")[0]
        assert any(fits(tag, target) for tag in tags), wheel.name
    assert got == wanted


def fits(tag: Tag, target: Target) -> bool:
    """Whether a wheel of that tag is one for such a machine, or for all."""
    return tag.platform == "any" or tag.platform in target.pip


def test_the_extras_that_are_resolved_are_those_of_a_node_or_of_a_controller() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*EXTRAS, "dev"} == set(extras)


def test_no_pin_is_taken_for_a_part_of_cuda() -> None:
    assert not [name for name in pins() if re.fullmatch(CUDA, name)]
