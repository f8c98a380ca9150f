"""smolcluster's own wheel: the same bytes each time, and what setuptools would have made of the same sources."""

from __future__ import annotations

import email.parser
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from smolcluster.provision.wheel import NAME, build_wheel

ROOT = Path(__file__).parents[2]


def contents(wheel: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def needs(metadata: bytes) -> set[str]:
    """Each requirement as packaging writes it, which does not depend on quotes and spaces."""
    lines = email.parser.BytesHeaderParser().parsebytes(metadata).get_all("Requires-Dist") or []
    return {str(Requirement(line)) for line in lines}


def test_the_same_sources_give_the_same_bytes_and_leave_nothing_behind() -> None:
    before = sorted(path.name for path in ROOT.iterdir())
    assert build_wheel(ROOT) == build_wheel(ROOT)
    assert sorted(path.name for path in ROOT.iterdir()) == before


@pytest.mark.slow
@pytest.mark.core
def test_it_is_what_setuptools_makes(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="it needs setuptools in the environment of the tests")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    left_out = shutil.ignore_patterns("__pycache__", "node_modules")
    shutil.copytree(ROOT / "smolcluster", checkout / "smolcluster", ignore=left_out)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    done = subprocess.run([*command, str(checkout)], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    theirs, ours = contents((tmp_path / NAME).read_bytes()), contents(build_wheel(checkout))
    info = f"{NAME.removesuffix('-py3-none-any.whl')}.dist-info"
    code = {name for name in theirs if not name.startswith(info)}
    assert {name for name in ours if not name.startswith(info)} == code
    assert all(ours[name] == theirs[name] for name in code)
    assert needs(ours[f"{info}/METADATA"]) == needs(theirs[f"{info}/METADATA"])
    assert ours[f"{info}/entry_points.txt"].split() == theirs[f"{info}/entry_points.txt"].split()
