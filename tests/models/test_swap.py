"""A folder takes another one's place: in one step where the system can, else with a way back."""

import sys
from pathlib import Path

import pytest

from smolcluster.models import swap


@pytest.fixture
def folders(tmp_path):
    """A finished folder beside the one it replaces."""
    for name in (".model-new", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    return tmp_path / ".model-new", tmp_path / "model"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="this system cannot exchange names")
def test_the_name_is_never_missing(folders, monkeypatch):
    building, folder = folders

    def renamed(self, target):
        raise AssertionError(f"{self} was renamed to {target}: for a moment there is no {folder.name}")

    monkeypatch.setattr(Path, "rename", renamed)
    swap.put_in_place(building, folder)
    assert (folder / "config.json").read_text() == ".model-new"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_the_new_folder_is_there_and_nothing_else(folders, monkeypatch, can_exchange, there):
    building, folder = folders
    if not can_exchange:
        monkeypatch.setattr(swap, "exchange", lambda *_: False)
    if not there:
        (folder / "config.json").unlink()
        folder.rmdir()
    swap.put_in_place(building, folder)
    assert (folder / "config.json").read_text() == ".model-new"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_moved(folders, monkeypatch):
    building, folder = folders
    monkeypatch.setattr(swap, "exchange", lambda *_: False)
    rename = Path.rename

    def renamed(self, target):
        if self == building:
            raise PermissionError(13, "somebody holds it open")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(PermissionError):
        swap.put_in_place(building, folder)
    assert (folder / "config.json").read_text() == "model"


def test_what_cannot_be_exchanged_is_left_alone(tmp_path):
    (tmp_path / "one").mkdir()
    assert not swap.exchange(tmp_path / "one", tmp_path / "none")
    assert (tmp_path / "one").is_dir()
