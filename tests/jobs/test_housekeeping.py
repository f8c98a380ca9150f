"""Which old runs go, which never do, and how they go."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from smolcluster.cli import main
from smolcluster.jobs import housekeeping
from smolcluster.jobs.bootservice import BootService, write_note
from smolcluster.jobs.housekeeping import prune, runs_in
from smolcluster.jobs.registry import Registry
from smolcluster.plan.types import NodeConfig
from smolcluster.runtime.generation import GenerationNote, Origin, write_generation
from smolcluster.runtime.newrun import fill_folder, point_latest
from smolcluster.runtime.runfolder import JobState, RunFolder, write_atomic

from .node import make_plan


def make(workdir: Path, number: int, state: str = "completed", here: bool = True, **config: str | None) -> Path:
    """A run, the older the smaller its number: a node's own part, or (not `here`) one that was collected from it."""
    path = workdir / f"run-{number}"
    folder, plan = RunFolder(path), make_plan("node1", ("run",))
    fill_folder(folder, plan.to_json())
    os.utime(folder.plan, (1_000_000 + number, 1_000_000 + number))
    values = NodeConfig(
        run_id=path.name, node="node1", generation=0, run_dir=str(path if here else "/elsewhere/run"),
        plan_file=str(folder.plan), plan_digest=plan.digest(), secret_file=str(path / "secret"),
        data_dir=config.pop("data_dir", None) or str(path / "data"), python="python3", ranks=(0,), **config,
    )  # fmt: skip
    write_atomic(folder.node("node1") / "node.yaml", yaml.safe_dump(values.model_dump(mode="json", by_alias=True)))
    if state:
        told = JobState(run_id=path.name, node="node1", state=state, pid=1, generation=0, ranks={0: "0"})
        write_atomic(folder.job_state("node1"), told.model_dump_json(by_alias=True))
    return path


def names(workdir: Path) -> list[str]:
    return sorted(path.name for path in workdir.iterdir() if path.name[0] != ".")


def test_the_oldest_go_and_what_it_freed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (3, 1, 4, 2):
        path = make(tmp_path, number)
        (path / "model").mkdir()
        (path / "model" / "model.safetensors").write_bytes(bytes(2_000_000))
    assert [run.name for run in runs_in(tmp_path)] == ["run-4", "run-3", "run-2", "run-1"]
    assert main(["runs", str(tmp_path), "--keep", "2"]) == 0
    assert names(tmp_path) == ["run-3", "run-4"]
    assert capsys.readouterr().out == "deleted run-1\ndeleted run-2\nfreed 4.0 MB\n"
    assert main(["runs", str(tmp_path), "--keep", "2"]) == 0
    assert capsys.readouterr().out == "there is nothing to delete\n"


def test_by_default_everything_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, 1)
    assert prune(tmp_path, 0).runs == ()
    assert main(["runs", str(tmp_path)]) == 0
    assert "1 runs" in capsys.readouterr().out
    assert names(tmp_path) == ["run-1"]


def test_an_active_run_stays(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make(tmp_path, number, state="running")
    claim = Registry(tmp_path, "node1").claim("run-1", tmp_path / "run-1")
    freed = prune(tmp_path, 1)
    # run-2 says that it runs, and nobody is alive for it: the machine was switched off.
    assert (freed.runs, freed.kept) == (("run-2",), (("run-1", "it is active"),))
    Registry(tmp_path, "node1").release(claim)
    assert prune(tmp_path, 1).runs == ("run-1",)


def test_one_that_may_go_on_elsewhere_stays(tmp_path: Path) -> None:
    """On the controller of a detached run: nothing was collected, or a part that ran then."""
    make(tmp_path, 1, state="")
    make(tmp_path, 2, state="running", here=False)
    make(tmp_path, 3, state="failed", here=False)
    make(tmp_path, 4)
    freed = prune(tmp_path, 1)
    assert freed.runs == ("run-3",)
    assert [name for name, why in freed.kept if why.startswith("nothing here says that it has ended")] == [
        "run-1",
        "run-2",
    ]


def test_what_latest_leads_to_stays(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make(tmp_path, number)
    assert point_latest(tmp_path / "run-1")
    assert prune(tmp_path, 1).runs == ("run-2",)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").write_text("run-1\n")  # where there are no links
    assert prune(tmp_path, 1).runs == ()


def test_what_is_served_at_boot_stays(tmp_path: Path) -> None:
    for number in (1, 2):
        make(tmp_path, number)
    run_dir = str(tmp_path / "run-1")
    write_note(
        BootService(
            run_id="run-1", run_dir=run_dir, node="node1", kind="linux", name="n", system=False, files={"/n": ""}
        )
    )
    assert prune(tmp_path, 1).kept == (("run-1", "it is served when the machine starts"),)


def test_what_a_kept_run_came_from_stays_and_what_that_came_from(tmp_path: Path) -> None:
    make(tmp_path, 1)
    make(tmp_path, 2, resume_from=str(tmp_path / "run-1" / "checkpoints" / "step-00000008.json"))
    make(tmp_path, 3)
    make(tmp_path, 4, init_dir=None)
    write_generation(
        RunFolder(tmp_path / "run-4"), "node1", 0, GenerationNote(generation=0, origin=Origin(run_id="run-2", step=8))
    )
    freed = prune(tmp_path, 1)
    assert freed.runs == ("run-3",)
    assert dict(freed.kept) == {
        "run-2": "run-4 was resumed from it, or takes files from it",
        "run-1": "run-2 was resumed from it, or takes files from it",
    }


def test_a_run_whose_model_is_served_stays(tmp_path: Path) -> None:
    make(tmp_path, 1)
    (tmp_path / "run-1" / "model").mkdir()
    make(tmp_path, 2, model_dir=str(tmp_path / "run-1" / "model"))
    make(tmp_path, 3, resume_from=None)
    (tmp_path / "run-3" / "model").symlink_to(tmp_path / "run-2" / "model")
    assert prune(tmp_path, 1).runs == ()


def test_what_is_no_run_of_ours_is_not_touched(tmp_path: Path) -> None:
    for number in (1, 2):
        make(tmp_path, number)
    for name, text in (("mine", '{"plan": "a holiday"}'), ("broken", "{"), ("other", '{"ranks": [], "schema": 1}')):
        write_atomic(tmp_path / name / "plan.json", text)
        write_atomic(tmp_path / name / "secret", "")
    (tmp_path / "notes").mkdir()
    elsewhere = tmp_path / "notes" / "treasure"
    elsewhere.write_text("not to be followed to")
    (tmp_path / "run-1" / "model").symlink_to(tmp_path / "notes")
    assert prune(tmp_path, 1).runs == ("run-1",)
    assert names(tmp_path) == ["broken", "mine", "notes", "other", "run-2"]
    assert elsewhere.exists()


def test_a_deletion_that_was_cut_off_leaves_no_half_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        make(tmp_path, number)

    def pulled(path: Path) -> None:
        (path / "secret").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(housekeeping.shutil, "rmtree", pulled)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, 1)
    assert names(tmp_path) == ["run-2"]
    assert [run.name for run in runs_in(tmp_path)] == ["run-2"]
    monkeypatch.undo()
    assert prune(tmp_path, 1).bytes > 0
    assert not list(tmp_path.glob(".deleted*"))


def test_data_and_weights_that_no_run_left_uses(tmp_path: Path) -> None:
    data = tmp_path / ".data"
    for name in ("data-a", "data-b", "model-c", "model-d.part"):
        write_atomic(data / name / "file", "x" * 1000)
    make(tmp_path, 1, data_dir=str(data / "data-a"))
    make(tmp_path, 2, data_dir=str(data / "data-b"))
    freed = prune(tmp_path, 1, caches=True)
    assert (freed.runs, freed.caches) == (("run-1",), (".data/data-a", ".data/model-c"))
    assert sorted(path.name for path in data.iterdir()) == ["data-b", "model-d.part"]


def test_as_json_and_without_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        make(tmp_path, number)
    assert main(["runs", str(tmp_path), "--keep", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["kept"]) == (["run-1"], {})
    shutil.rmtree(tmp_path / "run-2")
    assert main(["runs", str(tmp_path / "nothing")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_reports_of_the_machines_go_as_runs_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, report in (("setup", "setup.json"), ("check", "check.json"), ("network", "report.json")):
        for hour in range(3):
            folder = tmp_path / kind / f"20261130-0{hour}0000"
            folder.mkdir(parents=True)
            (folder / report).write_bytes(bytes(500_000))
    # A person's own; and one whose deletion was cut off.
    (tmp_path / "check" / "before-the-move").mkdir()
    (tmp_path / "check" / "before-the-move" / "check.json").touch()
    (tmp_path / "setup" / "20261130-000000").rename(tmp_path / "setup" / ".deleted-20261130-000000")
    assert prune(tmp_path, 3).reports == ()
    assert names(tmp_path / "setup") == ["20261130-010000", "20261130-020000"]
    assert main(["runs", str(tmp_path), "--keep", "2"]) == 0
    said = capsys.readouterr().out
    assert said == "deleted check/20261130-000000\ndeleted network/20261130-000000\nfreed 1.0 MB\n"
    assert names(tmp_path / "check") == ["20261130-010000", "20261130-020000", "before-the-move"]
    assert names(tmp_path / "network") == ["20261130-010000", "20261130-020000"]
    assert prune(tmp_path, 2).plain()["reports"] == ()
