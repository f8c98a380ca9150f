"""`python -m smolcluster.train` as a person types it, in a project of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "model.model_dim=32", "model.num_layers=1", "model.ff_dim=64", "model.max_seq_len=32",
    "training.batch_size=2", "training.eval_steps=4", "lr_schedule.warmup_iters=1", "data.tokenizer=bpe:300",
]  # fmt: skip


def train(project: Path, *flags: str, steps: int = 4) -> subprocess.CompletedProcess[str]:
    return train_plainly(project, *flags, "--override", ",".join((*SMALL, f"training.max_steps={steps}")))


def train_plainly(project: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """With these flags and no others."""
    (project / "inventory").mkdir(exist_ok=True)
    shutil.copy(ROOT / "inventory" / "local.smol.yml", project / "inventory")
    return subprocess.run(
        [sys.executable, "-m", "smolcluster.train", *flags],
        cwd=project, capture_output=True, text=True, timeout=150, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"},
    )  # fmt: skip


def text_of(project: Path) -> Path:
    book = project / "book.txt"
    book.write_text("".join(f"In chapter {n} the ranks agree on the sum of {n} and {n * n}.\n" for n in range(1500)))
    return book


def test_one_process_by_default(tmp_path: Path) -> None:
    outcome = train(tmp_path, "--dataset", str(text_of(tmp_path)), "--override", "logging.tracker=tensorboard")
    assert outcome.returncode == 0, outcome.stderr
    summary = json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text())
    assert (summary["status"], summary["strategy"], summary["world_size"]) == ("completed", "single", 1)
    assert summary["steps"] == 4
    assert (tmp_path / "runs" / "latest" / "plots" / "loss.svg").exists()
    assert (tmp_path / "runs" / "latest" / "model" / "config.json").exists()
    assert "python -m smolcluster generate" in outcome.stdout
    tracking = tmp_path / "runs" / "latest" / "tracking"  # by a process beside it
    assert list(json.loads((tracking / "sent.json").read_text())["sent"]) == ["tensorboard"]
    assert outcome.stdout.count("tensorboard: tensorboard --logdir") == 1
    assert (tracking / "live.json").exists()
    assert (tracking / "log.txt").read_text() == ""
    log = (tmp_path / "runs" / "latest" / "nodes" / "node1" / "rank-0" / "log.txt").read_text().splitlines()
    assert log[0].endswith("INFO rank 0 of 1 on cpu: single")
    assert [line for line in log if "INFO step 4/4" in line]
    assert outcome.stdout.splitlines()[: len(log)] == log, "it is printed all the same"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_resume_makes_a_new_run_of_another_strategy_and_goes_on_with_its_settings_alone(tmp_path: Path) -> None:
    book = str(text_of(tmp_path))
    assert train(tmp_path, "--dataset", book).returncode == 0
    first = (tmp_path / "runs" / "latest").resolve()
    outcome = train(tmp_path, "--dataset", book, "--strategy", "fsdp", "--resume", "latest", steps=6)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    # Every node of this machine takes part, through jobs.
    second = (tmp_path / "runs" / "latest").resolve()
    assert second != first
    summary = json.loads((second / "summary.json").read_text())
    assert (summary["status"], summary["world_size"], summary["transport"]) == ("completed", 3, "smol")
    assert summary["wire_bytes_per_step"] > 0
    assert (summary["steps"], summary["resumed_from"], summary["resumed_step"]) == (6, first.name, 4)
    assert f"from step 4 of {first.name}" in outcome.stdout
    assert sorted(path.name for path in (first / "checkpoints").iterdir()) == ["step-00000004.json"]
    before = sorted((tmp_path / "runs").iterdir())
    refused = train(tmp_path, "--dataset", book, "--resume", "runs/nothing")
    assert refused.returncode == 2
    assert "there is no " in refused.stderr
    done = train_plainly(tmp_path, "--resume", "latest")
    assert done.returncode == 2
    assert f"nothing is left to train: {second.name} has made 6 steps" in done.stderr
    assert sorted((tmp_path / "runs").iterdir()) == before

    outcome = train_plainly(tmp_path, "--resume", "latest", "--override", "training.max_steps=8")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    third = (tmp_path / "runs" / "latest").resolve()
    summary = json.loads((third / "summary.json").read_text())
    assert (summary["strategy"], summary["steps"], summary["resumed_step"]) == ("fsdp", 8, 6)
    was, went_on = (json.loads((folder / "plan.json").read_text())["run"] for folder in (second, third))
    was["training"]["max_steps"] = 8
    assert went_on == was
    assert f"are taken from runs/{second.name}/plan.json" in outcome.stderr


def test_mistakes_of_every_kind_are_told_at_once(tmp_path: Path) -> None:
    outcome = train_plainly(
        tmp_path, "--resume", "nothing", "--init", "no/such/model", "--dataset", "no-such-text", "--nodes", ",",
        "--override", "seed=many",
    )  # fmt: skip
    assert outcome.returncode == 2
    for said in ("--resume nothing", "--init no/such/model", "--nodes: is empty", "--override seed=many: seed"):
        assert said in outcome.stderr
    assert outcome.stderr.startswith("4 problems in the configuration")
    again = train_plainly(tmp_path, "--resume", "nothing", "--dataset", "no-such-text")
    for said in ("--resume nothing", '"no-such-text" is neither'):
        assert said in again.stderr
    assert not (tmp_path / "runs").exists()


def test_a_bad_setting_is_one_message(tmp_path: Path) -> None:
    outcome = train(tmp_path, "--override", "training.batchsize=2")
    assert outcome.returncode == 2
    assert "training.batchsize" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "runs").exists()
