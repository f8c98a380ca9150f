"""What a run's folder holds before anybody starts: who may read it, and where runs/latest leads."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from smolcluster.runtime.newrun import KEY_CHARACTERS, fill_folder, link_model, point_latest
from smolcluster.runtime.runfolder import RunFolder, run_at


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_plan_secret_and_key(tmp_path: Path) -> None:
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    fill_folder(one, '{"not": "touched" }\n')
    fill_folder(two, "{}", asks_for_key=True)
    assert one.plan.read_text() == '{"not": "touched" }\n'
    secrets = [(folder.path / "secret").read_text() for folder in (one, two)]
    assert [len(bytes.fromhex(secret)) for secret in secrets] == [32, 32]
    assert secrets[0] != secrets[1]
    assert not (one.path / "api_key").exists()
    key = (two.path / "api_key").read_text()
    assert (len(key), key.isalnum(), key.isascii()) == (KEY_CHARACTERS, True, True)
    assert [mode(one.path / "secret"), mode(two.path / "secret"), mode(two.path / "api_key")] == [0o600] * 3


def test_latest_leads_to_the_newest_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert point_latest(tmp_path / name)
        assert (tmp_path / "latest").readlink() == Path(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


def test_without_links_latest_is_a_file_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder, model = RunFolder(tmp_path / "one"), tmp_path / "model"
    folder.path.mkdir()
    link_model(folder, model)
    assert not folder.model.exists()
    assert point_latest(folder.path)
    assert (tmp_path / "latest").read_text() == "one\n"
    assert run_at(tmp_path / "latest") == folder.path.resolve()


def test_a_folder_in_the_place_of_latest_stays(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "mine").touch()
    assert not point_latest(tmp_path / "one")
    assert (tmp_path / "latest" / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one"]


def test_the_model_that_is_served_is_linked(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "one").mkdir()
    link_model(RunFolder(tmp_path / "one"), tmp_path / "model")
    assert (tmp_path / "one" / "model").readlink() == tmp_path / "model"
