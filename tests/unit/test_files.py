"""Files that are replaced while others read them, as Windows would have it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smolcluster import files
from smolcluster.cli import main
from smolcluster.runtime.access import only_for_user
from smolcluster.runtime.runfolder import run_at, write_atomic


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


PROC = pytest.mark.skipif(sys.platform != "linux", reason="/proc, where nobody makes anything, is Linux's")
INVENTORY = str(Path(__file__).resolve().parents[2] / "inventory" / "local.smol.yml")


@PROC
@pytest.mark.parametrize("place", ["/proc/nope", "/proc"])
@pytest.mark.parametrize(
    ("arguments", "below"),
    [
        (["plan", "-i", INVENTORY, "--out"], "/x"),
        (["plan", "-i", INVENTORY, "--render"], ""),
        (["doctor", "-i", INVENTORY, "--out"], ""),
        (["network", "verify", "m.json", "-i", INVENTORY, "--out"], ""),
        (["certificate", "init", "--ca"], ""),
        (["certificate", "request", "node1", "--folder"], ""),
        (["provision", "wheel"], ""),
    ],
)
def test_a_place_where_nothing_can_be_is_told(
    arguments: list[str], below: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.json").write_text("{}")
    assert main([*arguments, place + below]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(place), said
    assert "Fix: " in said


@PROC
def test_only_a_place_is_told_so_and_no_missing_file(tmp_path: Path) -> None:
    with pytest.raises(files.NoPlaceError) as told:
        write_atomic(Path("/proc/x.json"), "{}")
    assert files.is_refusal(told.value)
    assert files.explain_with_path(told.value).startswith("/proc/x.json: ENOENT, ")
    with pytest.raises(files.NoPlaceError):
        files.folder_aside(Path("/proc"), ".x-")
    with pytest.raises(FileNotFoundError) as missing:
        files.hash_of(tmp_path / "nothing")
    assert not files.is_refusal(missing.value), "it may be a bug of ours"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_name_that_cannot_be_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop, folder = tmp_path / "loop", tmp_path / "folder"
    loop.symlink_to("loop")
    folder.mkdir()
    for place, fix in (
        (tmp_path / ("a" * 300), "give it a shorter name"),
        (loop / "x" / "y", "mend the links there"),
        (folder, "move away the folder"),
    ):
        assert main(["plan", "-i", INVENTORY, "--out", str(place)]) == 2
        assert fix in capsys.readouterr().err
    with pytest.raises(OSError, match="folder") as told:
        write_atomic(folder, "")
    assert told.value.filename == str(folder), "nobody knows the temporary one"
    assert run_at(loop) == loop
    assert main(["check", "-i", str(loop)]) == 2
    assert main(["checkpoint", "--runs", str(loop)]) == 2


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
