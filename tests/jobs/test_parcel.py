"""What travels between the controller and a node: nothing half, nothing outside its folder, no secret in the open."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from smolcluster.jobs.parcel import File, Step, files_of, pack, step, unpack
from smolcluster.jobs.types import JobError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    (folder / "secret").write_text("s")
    (folder / "secret").chmod(0o600)
    (folder / "deep" / "data.bin").write_bytes(b"1234")
    return folder


def ask(state: str, folder: Path, files: tuple[File, ...], **more: bool) -> dict[str, object]:
    return step(Step(state=state, run_dir=str(folder), node="pi5", files=files, **more))  # type: ignore[arg-type]


def bring(source: Path, folder: Path, files: tuple[File, ...], **more: bool) -> list[str]:
    """As the action plugin does; gives what was copied."""
    opened = ask("opened", folder, files, **more)
    missing = opened["missing"]
    assert isinstance(missing, list)
    for name in missing:
        shutil.copyfile(source / name, f"{opened['part']}/{name}")
    if missing:
        ask("closed", folder, files, **more)
    return missing


def test_files_come_into_a_folder_with_their_modes(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "runs" / "run-1"
    files = files_of(source, ["plan.json", "secret"])
    opened = ask("opened", there, files)
    part = Path(str(opened["part"]))
    assert part.parent == there
    assert stat.S_IMODE(part.stat().st_mode) == 0o700, "a secret that is under way is the user's alone"
    assert bring(source, there, files) == ["plan.json", "secret"]
    assert stat.S_IMODE((there / "secret").stat().st_mode) == 0o600
    assert sorted(path.name for path in there.iterdir()) == ["plan.json", "secret"]
    (source / "plan.json").write_text("[]")
    assert bring(source, there, files) == ["plan.json", "secret"], "a plan is brought again: it may be another"
    assert (there / "plan.json").read_text() == "[]"


def test_what_is_kept_is_not_brought_again(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "plan.json").write_text("mine")
    assert bring(source, there, files_of(source), keep=True) == ["deep/data.bin", "secret"]
    assert (there / "plan.json").read_text() == "mine"
    assert (there / "deep" / "data.bin").read_bytes() == b"1234"
    assert bring(source, there, files_of(source), keep=True) == []


def test_a_whole_folder_has_its_name_when_all_is_in_it(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "store" / "pydoc-123"
    files = files_of(source, hashed=True)
    assert files[0].hash == hashlib.sha256(b"1234").hexdigest()
    part = Path(str(ask("opened", there, files, whole=True)["part"]))
    assert part == there.with_name("pydoc-123.part-pi5")
    shutil.copyfile(source / "secret", part / "secret")
    with pytest.raises(JobError, match="2 of its files did not come"):
        ask("closed", there, files, whole=True)
    assert not there.exists()
    assert bring(source, there, files, whole=True) == ["deep/data.bin", "plan.json"], "what came is gone on with"
    assert sorted(path.name for path in there.iterdir()) == ["deep", "plan.json", "secret"]
    assert not part.exists()
    assert bring(source, there, files, whole=True) == []


def test_a_file_that_came_damaged_is_told_and_brought_again(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "store" / "pydoc-123"
    files = files_of(source, ["plan.json"], hashed=True)
    part = Path(str(ask("opened", there, files, whole=True)["part"]))
    (part / "plan.json").write_text("{")
    with pytest.raises(JobError, match=r"plan\.json came damaged"):
        ask("closed", there, files, whole=True)
    assert bring(source, there, files, whole=True) == ["plan.json"]


def test_of_two_who_bring_the_same_one_wins(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "store" / "pydoc-123"
    files = files_of(source, hashed=True)
    part = Path(str(ask("opened", there, files, whole=True)["part"]))
    for file in files:
        shutil.copyfile(source / file.name, part / file.name)
    shutil.copytree(source, there)
    assert ask("closed", there, files, whole=True)["files"] == 3
    assert not part.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:x", "..\\x", "a\\b", ""])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    for state in ("opened", "closed"):
        with pytest.raises(JobError, match="is no name of a file in a folder"):
            ask(state, tmp_path / "there", (File(name=name, mode=0o644),))


def test_what_a_node_left_comes_home_without_its_secrets(tmp_path: Path) -> None:
    run, home = tmp_path / "run", tmp_path / "home"
    for name in (
        "nodes/pi5/log.txt", "nodes/pi5/control.json", "nodes/pi5/node.yaml", "nodes/pi5/.hidden", "nodes/pi4/log.txt",
        "nodes/pi5/checkpoints/step-1/rank-0.bin", "checkpoints/step-1.json", "model/config.json", "secret",
    ):  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    archive, count = pack(run, "pi5")
    assert (count, unpack(home, archive)) == (3, 3)
    archive.unlink()
    found = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    assert found == ["checkpoints/step-1.json", "model/config.json", "nodes/pi5/log.txt"]
    with pytest.raises(JobError, match=r"there is nothing of this run: no .*nodes"):
        pack(run, "pi3")


def test_an_archive_that_leads_out_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    (tmp_path / "x").write_text("x")
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "x", arcname="../../outside")
    with pytest.raises(tarfile.TarError):
        unpack(tmp_path / "deep" / "home", archive)
    assert not (tmp_path / "outside").exists()
