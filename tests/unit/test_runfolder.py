"""The run folder: atomic writes, and paths as DESIGN section 7 states them."""

import os
import stat
from pathlib import Path

import pytest

from smolcluster.runtime.runfolder import RunFolder, read_json, write_atomic


def test_write_atomic_replaces_the_whole_file_and_leaves_no_other(tmp_path):
    target = tmp_path / "deep" / "file.json"
    write_atomic(target, "old")
    write_atomic(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file.json"]


def test_write_atomic_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file.json"
    write_atomic(target, "old")

    def broken(source, destination):
        raise OSError("disk is gone")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk is gone"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_a_secret_is_for_its_owner_alone(tmp_path):
    write_atomic(tmp_path / "secret", "x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_paths():
    folder = RunFolder(Path("runs/a"))
    assert folder.metrics("mini1", 2) == Path("runs/a/nodes/mini1/rank-2/metrics.jsonl")
    assert folder.supervisor_log("mini1") == Path("runs/a/nodes/mini1/supervisor.txt")
    assert folder.summary == Path("runs/a/summary.json")


def test_read_json_wants_an_object(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_json(tmp_path / "list.json")
