"""`--strategy mp` as a person types it: the losses of one process, a model, and runs that go on from it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_folders import WORDS

from smolcluster.models.hf import load_pretrained

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "training.batch_size=8,training.eval_steps=3,lr_schedule.warmup_iters=0,lr_schedule.min_lr=null,model.model_dim=32,model.num_layers=4,\
model.num_heads=2,model.ff_dim=64,model.dropout=0,model.max_seq_len=16,data.tokenizer=bpe:300,checkpoint.every_steps=3"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mp")
    (folder / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", folder / "inventory")
    chance = random.Random(7)
    sentences = [" ".join(chance.choices(WORDS, k=9)) + "." for _ in range(300)]
    (folder / "book.txt").write_text("\n".join(sentences))
    return folder


def train(project: Path, *flags: str) -> tuple[Path, dict]:
    command = [sys.executable, "-m", "smolcluster.train", "--dataset", "book.txt", "--override", SMALL, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = (project / "runs" / "latest").resolve()
    return run, json.loads((run / "summary.json").read_text())


def losses(run: Path) -> dict[int, float]:
    """By step, as rank 0 wrote them."""
    [file] = (run / "nodes" / "node1").rglob("metrics.jsonl")
    records = map(json.loads, file.read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.timeout(400)
def test_split_layers_train_as_one_process_and_others_go_on(project: Path) -> None:
    run, split = train(project, "--strategy", "mp", "--override", "training.max_steps=6")
    stages = json.loads((run / "plan.json").read_text())["stages"]
    assert (len(stages), stages[-1][1]) == (3, 4)
    assert (split["status"], split["steps"], split["tokens"]) == ("completed", 6, 6 * 8 * 16)
    model = load_pretrained(run / "model")
    assert model(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 300)

    # Its checkpoint is any strategy's.
    two = ("--nodes", "node1,node2", "--override", "training.max_steps=9,training.batch_size=4,staleness_bound=0")
    sharded, went_on = train(project, "--strategy", "fsdp", "--resume", str(run), *two)
    assert went_on["resumed_step"] == 6
    whole, _ = train(project, "--strategy", "single", "--override", "training.max_steps=9")
    got = losses(run) | losses(sharded)
    assert list(got) == list(range(1, 10))
    assert list(got.values()) == pytest.approx(list(losses(whole).values()), abs=1e-5)

    # Weights that somebody gives reach the stages that need them.
    _, given = train(project, "--strategy", "mp", "--init", str(run / "model"), "--override", "training.max_steps=1")
    assert given["val_loss_first"] == pytest.approx(split["val_loss"], abs=1e-5)
