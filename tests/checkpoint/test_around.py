"""What people meet of checkpoints around a run: settings, what is collected, `--resume`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smolcluster.commands._resume import checkpoint_named
from smolcluster.errors import ConfigError, InputError
from smolcluster.jobs.parcel import pack, unpack
from smolcluster.observe.report import summary_of
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import RankResult, RunFolder, write_atomic
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve
from smolcluster.spec.run import CheckpointSpec
from tests.checkpoint.jobs import train
from tests.checkpoint.runs import plan

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"


def settings(*overrides: str, model: str = "gpt", config: Path | None = None) -> CheckpointSpec:
    return resolve(Request(LOCAL, "fsdp", model=model, config=config, overrides=overrides)).run.checkpoint


def test_settings_come_from_flags_and_from_a_block(tmp_path: Path) -> None:
    assert settings() == CheckpointSpec(every_steps=50, keep=3, keep_best=True, replicas=1)
    assert settings("checkpoint.every_steps=10", "checkpoint.replicas=2") == CheckpointSpec(every_steps=10, replicas=2)
    config = tmp_path / "mine.yaml"
    config.write_text("checkpoint:\n  keep: 9\n  keep_best: false\n")
    assert settings(config=config) == CheckpointSpec(keep=9, keep_best=False)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("checkpoint.every_step=10", "did you mean every_steps?"),
        ("checkpont.keep=1", "did you mean checkpoint.keep?"),
        ("checkpoint.keep=0", "checkpoint.keep"),
        ("checkpoint.replicas=true", "checkpoint.replicas"),
    ],
)
def test_a_setting_that_is_wrong_is_told(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(override)
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(None, folder, data, plan(1, "single", max_steps=4))
    (folder.parent / "latest").symlink_to("one")
    return folder


def test_what_a_person_names(run: Path, tmp_path: Path) -> None:
    manifest = run / "checkpoints" / "step-00000004.json"
    assert checkpoint_named("latest", run.parent).path == run
    assert checkpoint_named(str(run.parent / "latest"), tmp_path).path == run
    assert checkpoint_named(str(manifest), tmp_path).path == manifest
    copy = run / "nodes" / "node1" / "checkpoints" / "step-00000004" / "manifest.json"
    assert checkpoint_named(str(copy), tmp_path).path == copy
    (tmp_path / "empty").mkdir()
    for text, said in {
        "latest": "there is no ",
        "nowhere": "there is no ",
        str(tmp_path / "empty"): "is not a run folder",
        str(manifest).replace("04.json", "05.json"): "there is no ",
    }.items():
        with pytest.raises(InputError, match=said):
            checkpoint_named(text, tmp_path)


def test_a_name_that_is_nearly_right(run: Path) -> None:
    for flag, anew in {"checkpoint": False, "--resume": True}.items():
        with pytest.raises(InputError) as caught:
            checkpoint_named("lastest", run.parent, flag)
        assert "fix: did you mean latest?" in str(caught.value)
        assert ("start anew" in str(caught.value)) is anew


def command(*words: str) -> tuple[int, str, str]:
    outcome = subprocess.run(
        [sys.executable, "-m", "smolcluster", "checkpoint", *words], capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "COLUMNS": "120", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return outcome.returncode, outcome.stdout, outcome.stderr


@pytest.fixture
def two(data: Path, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 2 and 4, and where their files lie."""
    folder = tmp_path / "runs" / "two"
    made = plan(1, "single", checkpoint={"every_steps": 2}, max_steps=4, eval_steps=4)
    train(None, folder, data, made)
    write_atomic(RunFolder(folder).plan, made.to_json())
    return folder


def test_the_command_shows_all_checkpoints_and_which_would_be_taken(two: Path) -> None:
    code, out, _ = command(str(two))
    rows = [line.split() for line in out.splitlines() if "single, 1 rank" in line]
    assert (code, [(row[0], row[-1]) for row in rows]) == (0, [("4", "whole"), ("2", "whole")])
    assert f"a resumed run starts from step 4 of {two}" in out
    code, out, _ = command(str(two / "checkpoints" / "step-00000002.json"), "--json")
    told = json.loads(out)
    assert (told["step"], told["manifest"], told["hashed"]) == (2, "checkpoints/step-00000002.json", False)
    [row] = told["checkpoints"]
    assert (row["step"], row["whole"], row["missing"], row["val_loss"]) == (2, True, [], None)


def test_the_command_reads_the_files_when_asked_to(two: Path) -> None:
    newest = two / "nodes" / "node1" / "checkpoints" / "step-00000004" / "rank-0.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    told = {words: json.loads(command(str(two), "--json", *words)[1]) for words in ((), ("--hashes",))}
    assert (told[()]["step"], told[()]["problems"]) == (4, [])
    assert told["--hashes",]["step"] == 2
    assert [row["whole"] for row in told["--hashes",]["checkpoints"]] == [False, True]
    [problem] = told["--hashes",]["problems"]
    assert problem == f"{newest} on this machine is damaged: its SHA-256 is not the one in the manifest"
    _, out, _ = command(str(two), "--hashes")
    assert [line.split()[-1] for line in out.splitlines() if "single, 1 rank" in line] == ["damaged", "good"]
    newest.with_name("rank-0.safetensors").write_bytes(b"")
    assert json.loads(command(str(two), "--json")[1])["step"] == 2, "a size is looked at without being asked to"


def test_a_checkpoint_on_other_machines_is_no_loss(two: Path) -> None:
    shutil.rmtree(two / "nodes" / "node1" / "checkpoints" / "step-00000004")
    assert json.loads(command(str(two), "--json")[1])["step"] == 2
    told = json.loads(command(str(two), "--json", "--elsewhere")[1])
    assert told["step"] == 4
    assert told["checkpoints"][0]["missing"] == ["rank 0's file (rank-0.safetensors on node1)"]
    shutil.rmtree(two / "nodes" / "node1" / "checkpoints" / "step-00000002")
    code, out, problem = command(str(two))
    assert (code, out) == (2, "")
    assert f"no checkpoint in {two} is whole" in problem
    assert problem.count("not seen here: rank 0's file (rank-0.safetensors on node1)") == 2


def collect(run: Path, home: Path, *checkpoints: str) -> None:
    """Pack node1's part of a run and unpack it in `home`, as collect.yml does."""
    archive, _ = pack(run, "node1", checkpoints == ("checkpoints",))
    unpack(home, archive)
    archive.unlink()


def test_manifests_are_collected_and_files_when_asked_for(run: Path, data: Path, tmp_path: Path) -> None:
    for wanted in ((), ("checkpoints",)):
        home = tmp_path / f"home{len(wanted)}"
        collect(run, home, *wanted)
        assert (home / "checkpoints" / "step-00000004.json").exists()
        assert (home / "nodes" / "node1" / "rank-0" / "metrics.jsonl").exists()
        assert (home / "nodes" / "node1" / "checkpoints").exists() is bool(wanted)
    assert train(None, tmp_path / "next", data, plan(1, "single", max_steps=5), resume=home).resumed_step == 4


def test_the_summary_says_where_a_run_came_from(run: Path, data: Path, tmp_path: Path) -> None:
    made = plan(1, "single", max_steps=6)
    account = train(None, tmp_path, data, made, resume=run / "checkpoints" / "step-00000004.json")
    write_atomic(RunFolder(tmp_path).plan, made.to_json())
    result = RankResult(
        rank=0, node="node1", status="completed", exit_code=0, steps=account.steps,
        resumed_from=account.resumed_from, resumed_step=account.resumed_step,
    )  # fmt: skip
    write_result(RunFolder(tmp_path), result)
    summary = summary_of(tmp_path)
    assert (summary.steps, summary.resumed_from, summary.resumed_step) == (6, "one", 4)
