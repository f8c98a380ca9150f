"""packages.py with the real apt-get and dpkg-query, which are shown a system of their own: a few made-up packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smolcluster.provision import packages

SCRIPT = Path(packages.__file__)
pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")
# As on Debian 12: python3-venv is what a person installs, and python3.11 can be had in a newer version.
DEPENDS = {
    "python3.11": "",
    "python3.11-venv": "python3.11, python3-pip-whl, python3-distutils",
    "python3-pip-whl": "ca-certificates",
    "python3-distutils": "python3.11",
    "python3.12-venv": "python3-pip-whl",
    "ca-certificates": "",
    "python3-venv": "python3.11-venv",
    "other": "python3-pip-whl",
}
_CONF = """\
Dir "{root}";
Dir::State "{root}/state";
Dir::State::status "{root}/dpkg/status";
Dir::Cache "{root}/cache";
Dir::Etc "{root}/etc";
Dir::Bin::methods "/usr/lib/apt/methods";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
"""


@dataclass(frozen=True)
class System:
    """A machine's packages. What apt would do is asked; `has` says what is there."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "APT_CONFIG": f"{self.folder}/apt.conf", "DPKG_ADMINDIR": f"{self.folder}/dpkg"}

    def make(self) -> System:
        """Nothing installed, and all of DEPENDS in a repository."""
        for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "repo"):
            (self.folder / name).mkdir(parents=True)
        for name in ("dpkg/info", "dpkg/updates"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "apt.conf").write_text(_CONF.format(root=self.folder))
        (self.folder / "etc" / "sources.list").write_text(f"deb [trusted=yes] file:{self.folder}/repo ./\n")
        listed = [f"{entry(name, '2')}Filename: ./{name}.deb\nSize: 1\nMD5sum: {0:032}\n" for name in DEPENDS]
        (self.folder / "repo" / "Packages").write_text("\n".join(listed))
        self.has()
        subprocess.run(["apt-get", "update"], env=self.environment, check=True, capture_output=True, timeout=60)
        return self

    def has(self, *names: str) -> None:
        """These are installed, and no others."""
        told = [f"{entry(name, '1')}Status: install ok installed\n" for name in names]
        (self.folder / "dpkg" / "status").write_text("\n".join(told))

    def call(self, verb: str, **order: Any) -> dict[str, Any]:
        order["root"] = str(self.folder / "home")
        command = [sys.executable, "-I", "-", verb, json.dumps(order)]
        done = subprocess.run(
            command,
            input=SCRIPT.read_text(),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def noted(self) -> list[str]:
        return list(json.loads((self.folder / "home" / "packages.json").read_text()))


def entry(name: str, version: str) -> str:
    needs = f"Depends: {DEPENDS[name]}\n" if DEPENDS[name] else ""
    return f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b>\nDescription: d\n{needs}"


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "system").make()


OURS = ["python3-distutils", "python3-pip-whl", "python3.11-venv"]


def test_what_comes_along_is_noted_and_what_was_there_is_not(system: System) -> None:
    system.has("python3.11", "ca-certificates")
    first = system.call("note", packages=["python3.11-venv"])
    assert first == {"schema": 1, "changed": True, "packages": OURS}
    assert system.noted() == OURS
    assert not system.call("note", packages=["python3.11-venv"])["changed"]

    # Another Python, later: what was noted stays ours.
    system.has("python3.11", "ca-certificates", *OURS)
    assert system.call("note", packages=["python3.12-venv"])["packages"] == [*OURS, "python3.12-venv"]
    # In place already, also if a newer one could be had.
    assert not system.call("note", packages=["python3.11-venv", "python3.11"])["changed"]

    assert system.call("take") == {"schema": 1, "remove": OURS, "stays": []}, "one that never came is not missed"
    system.has("python3.11", "ca-certificates", *OURS, "python3.12-venv")
    assert system.call("take")["remove"] == [*OURS, "python3.12-venv"]


def test_what_others_need_meanwhile_stays(system: System) -> None:
    there = ("python3.11", "ca-certificates", *OURS)
    system.has("python3.11", "ca-certificates")
    system.call("note", packages=["python3.11-venv"])
    system.has(*there, "other")
    assert system.call("take") == {
        "schema": 1,
        "remove": ["python3-distutils", "python3.11-venv"],
        "stays": ["the package python3-pip-whl stays: other needs it now"],
    }
    system.has(*there, "python3-venv")
    assert system.call("take")["remove"] == []
    assert len(system.call("take")["stays"]) == 3
    # Gone by somebody else's hand, and nothing noted at all.
    system.has("python3.11")
    assert system.call("take")["remove"] == []
    (system.folder / "home" / "packages.json").unlink()
    assert system.call("take") == {"schema": 1, "remove": [], "stays": []}


def test_what_apt_refuses_is_told(system: System) -> None:
    with pytest.raises(AssertionError, match=r"(?s)apt-get install .* no-such-package: .*Unable to locate"):
        system.call("note", packages=["no-such-package"])
    assert not (system.folder / "home" / "packages.json").exists()
