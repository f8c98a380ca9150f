"""Weights of transformers' into a run and out of it: the same losses before, the same logits and tokens after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from smolcluster.data import TokenFolder
from smolcluster.data.tokenizer import train_bpe
from smolcluster.models.hf import load_pretrained
from smolcluster.runtime.runfolder import RunFolder
from tests.steps import read_metrics

ROOT = Path(__file__).resolve().parents[2]
# Fewer tokens than the weights have positions, fewer entries in the tokenizer than rows in the embedding.
LENGTH, POSITIONS, VOCABULARY = 32, 48, 320
SETTINGS = [
    f"model.max_seq_len={LENGTH}", "model.dropout=0", "training.max_steps=4", "training.batch_size=2",
    "training.eval_steps=4", "lr_schedule.warmup_iters=1",
]  # fmt: skip
TEXT = "".join(f"In chapter {n} the ranks agree on the sum of {n} and {n * n}, små 🦙.\n" for n in range(1200))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `save_pretrained` of transformers leaves: a random GPT-2 in two shards, and a tokenizer as GPT-2's files."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder, max_shard_size="100KB")
    train_bpe([TEXT], 300).tokenizer.model.save(str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", tmp_path / "inventory")
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def train(project: Path, *flags: str, settings: tuple[str, ...] = ()) -> Path:
    """A run as a person starts it; its folder."""
    overrides = [word for setting in (*SETTINGS, *settings) for word in ("--override", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "smolcluster.train", "--dataset", "book.txt", *flags, *overrides],
        cwd=project, capture_output=True, text=True, timeout=170, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the model's shape is that of the weights" in done.stderr
    return (project / "runs" / "latest").resolve()


def loss_in_transformers(folder: Path, data: Path) -> float:
    """The mean loss over the validation split, as transformers computes it."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = TokenFolder.open(data)
    x, y = tokens.batch("val", range(tokens.sample_count("val")))
    with torch.no_grad():
        logits = model(x).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()))


def node_of(run: Path, node: str) -> dict:
    return yaml.safe_load((run / "nodes" / node / "node.yaml").read_text())


WAYS = {
    "single": (("--strategy", "single"), (), 1e-5),
    "classicdp, bf16, recomputed, micro-batches": (
        ("--strategy", "classicdp", "--nodes", "node1,node2"),
        ("training.precision=bf16", "training.activation_checkpointing=true", "training.grad_accumulation=2"),
        2e-2,
    ),
    "fsdp 3": (("--strategy", "fsdp", "--nodes", "node1,node2"), ("fsdp_stage=3",), 1e-5),
}


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "settings", "tolerance"), WAYS.values(), ids=WAYS.keys())
def test_from_transformers_through_training_to_transformers(
    weights: Path, project: Path, flags: tuple[str, ...], settings: tuple[str, ...], tolerance: float
) -> None:
    run = train(project, "--init", str(weights), *flags, settings=settings)
    data = Path(node_of(run, "node1")["data_dir"])
    summary = json.loads((run / "summary.json").read_text())
    assert summary["val_loss_first"] == pytest.approx(loss_in_transformers(weights, data), abs=tolerance)
    assert summary["val_loss"] < summary["val_loss_first"]
    # Out again: transformers computes what ours does, with all positions and rows, and reads text as the run did.
    assert summary["val_loss"] == pytest.approx(loss_in_transformers(run / "model", data), abs=tolerance)
    theirs, ours = AutoModelForCausalLM.from_pretrained(run / "model").eval(), load_pretrained(run / "model")
    assert (theirs.config.n_positions, theirs.config.vocab_size) == (POSITIONS, VOCABULARY)
    ids = torch.randint(VOCABULARY, (2, POSITIONS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=0)
    text = "In chapter 7 the små 🦙 agree."
    before, after = AutoTokenizer.from_pretrained(weights), AutoTokenizer.from_pretrained(run / "model")
    assert after(text).input_ids == before(text).input_ids
    # Rank 0's node alone has the weights.
    assert Path(node_of(run, "node1")["init_dir"]).name.startswith("init-")
    if "--nodes" in flags:
        assert node_of(run, "node2")["init_dir"] is None


@pytest.mark.slow
def test_a_run_goes_on_from_another_run(weights: Path, project: Path) -> None:
    first = train(project, "--init", str(weights), "--strategy", "single")
    second = train(project, "--init", "runs/latest", "--strategy", "single")
    assert first != second
    ended, began = (json.loads((run / "summary.json").read_text()) for run in (first, second))
    assert began["val_loss_first"] == pytest.approx(ended["val_loss"], abs=1e-5)
    assert read_metrics(RunFolder(second).metrics("node1", 0))[0][-1].step == 4
    copy = Path(node_of(second, "node1")["init_dir"])
    kept, left = load_file(copy / "model.safetensors"), load_file(first / "model" / "model.safetensors")
    assert all(torch.equal(kept[name], left[name]) for name in left)
