"""`--model nn` from IDX files to a model on the disk, as a person types it. The pictures are synthetic."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from smolcluster.commands.generate import generate
from smolcluster.errors import InputError
from smolcluster.models.classifier import load_classifier
from tests.data.idx_files import pictures, write_idx

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", tmp_path / "inventory")
    write_idx(tmp_path / "mine", train=600, test=130, packed=True)
    return tmp_path


def train(project: Path, *flags: str) -> tuple[dict, str]:
    command = [sys.executable, "-m", "smolcluster.train", "--model", "nn", "--dataset", "mine", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=150, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((project / "runs" / "latest" / "summary.json").read_text()), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "stage"), [("single", 0), ("classicdp", 0), ("fsdp", 3), ("mp", 0)])
def test_from_files_to_a_model(project: Path, strategy: str, stage: int) -> None:
    flags = [] if strategy != "fsdp" else ["--override", f"fsdp_stage={stage}"]
    batch = "48" if strategy in ("single", "mp") else "16"  # the same global batch: the same run
    summary, text = train(project, "--strategy", strategy, "--override", f"batch_size={batch}", *flags)
    assert (summary["status"], summary["counts"], summary["steps"]) == ("completed", "samples", 2 * (600 // 48))
    assert summary["tokens"] == 2 * (600 // 48) * 48
    assert summary["perplexity"] is None
    assert summary["tokenizer"] is None
    assert summary["val_accuracy"] > 0.9
    assert "samples/s" in text
    assert f"accuracy {summary['val_accuracy'] * 100:.2f} %" in text
    assert f"{summary['val_accuracy'] * 100:.2f} % of the validation samples" in text
    assert "tokens" not in text.replace("these are", "")
    assert "generate" not in text
    plots = {file.name for file in (project / "runs" / "latest" / "plots").iterdir()}
    assert {"accuracy.svg", "accuracy.png"} <= plots
    assert "perplexity.svg" not in plots
    # What was saved tells as many right as the summary says: accuracy is counted over all ranks, exactly.
    model, scaling = load_classifier(project / "runs" / "latest" / "model")
    images, labels = pictures(130, seed=len("test"))
    with torch.no_grad():
        told = model(scaling(torch.from_numpy(images).flatten(1))).argmax(1)
    assert int((told == torch.from_numpy(labels.astype(np.int64))).sum()) == round(summary["val_accuracy"] * 130)
    records = [
        json.loads(line)
        for file in (project / "runs" / "latest" / "nodes").rglob("metrics.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert all(0 <= record["data_s"] <= record["step_s"] for record in records if "step_s" in record)
    with pytest.raises(InputError, match="is a SimpleNN: it tells what a picture shows, and writes no text"):
        generate(str(project / "runs" / "latest"))
