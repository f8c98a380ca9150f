"""Files that are replaced while others read them, as Windows would have it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smolcluster import files
from smolcluster.runtime.access import only_for_user
from smolcluster.runtime.runfolder import write_atomic


class Held:
    """A call that a reader's open file refuses so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, *_: object) -> bytes:
        if self.left:
            self.left -= 1
            raise PermissionError(13, "held")
        return b"whole"


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(files, "_HELD_S", 0.2)
    monkeypatch.setattr(files, "_LOOK_AGAIN_S", 0.001)


@pytest.mark.usefixtures("windows")
def test_a_name_that_is_held_is_had_a_moment_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(3)
    monkeypatch.setattr(Path, "read_bytes", held)
    assert files.read_replaced(tmp_path / "job.json") == b"whole"
    assert held.left == 0
    monkeypatch.setattr(Path, "replace", held := Held(3))
    write_atomic(tmp_path / "job.json", "{}")
    assert held.left == 0


@pytest.mark.usefixtures("windows")
def test_a_name_that_stays_held_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", Held(10**9))
    with pytest.raises(PermissionError):
        write_atomic(tmp_path / "job.json", "{}")
    assert list(tmp_path.iterdir()) == [], "nothing half is left"


def test_elsewhere_a_refusal_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(1)
    monkeypatch.setattr(Path, "read_bytes", held)
    if sys.platform != "win32":
        with pytest.raises(PermissionError):
            files.read_replaced(tmp_path / "job.json")
    assert held.left == 0


def test_a_folder_of_secrets_is_the_users_alone_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What icacls is told. Whether it does so was not tried on a real PC."""
    asked = []

    def tool(command: list[str]) -> str:
        asked.append(command)
        return '"pc\\größe","S-1-5-21-7-8-9-1001"\r\n' if command[0] == "whoami" else ""

    monkeypatch.setattr("smolcluster.runtime.access._tool", tool)
    only_for_user(tmp_path)
    assert asked == [] or sys.platform == "win32"
    asked.clear()
    monkeypatch.setattr(sys, "platform", "win32")
    only_for_user(tmp_path)
    assert asked == [
        ["whoami", "/user", "/fo", "csv", "/nh"],
        ["icacls", str(tmp_path), "/inheritance:r", "/grant:r", "*S-1-5-21-7-8-9-1001:(OI)(CI)F", "/Q"],
    ]
