"""Weights to start from, as far as a plan looks at them: the shape they give, and what contradicts it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.arithmetic import param_count
from smolcluster.plan.make import make_plan
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve

from .conftest import LOCAL, only_problem, report

CONFIG = {
    "model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 4, "n_inner": None, "n_positions": 200,
    "vocab_size": 320, "tie_word_embeddings": False, "resid_pdrop": 0.3,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "gpt2"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "tokenizer.json").write_text("{}")
    return made


def request(folder: Path, *overrides: str, **more: Any) -> Request:
    return Request(**{"inventory": LOCAL, "strategy": "fsdp", "init": folder, "overrides": overrides, **more})


def test_the_weights_say_the_shape_and_bring_their_tokenizer(folder: Path) -> None:
    resolved = resolve(request(folder))
    model = resolved.run.model
    assert (model.model_dim, model.num_layers, model.num_heads, model.ff_dim) == (48, 3, 4, 192)
    assert (model.vocab_size, model.tie_embeddings) == (320, False)
    assert (model.max_seq_len, model.num_positions) == (128, 200), "samples stay short, positions stay all"
    assert model.dropout == 0, "how one trains is not what the weights say"
    assert resolved.run.data.tokenizer == str(folder)
    assert resolved.run.init == str(folder)
    assert resolved.inputs[str(folder / "config.json")] == sha256((folder / "config.json").read_bytes()).hexdigest()
    [note] = [note for note in resolved.notes if note.startswith("--init")]
    assert "3 layers of 48, 4 heads, vocabulary 320, 200 positions), and their tokenizer" in note
    assert "samples are 128 tokens long" in note
    made = make_plan(resolved.cluster, resolved.run)
    assert made.params == param_count(model)
    assert made.params > 2 * 320 * 48 + 200 * 48


def test_a_run_without_weights_says_nothing_of_them() -> None:
    resolved = resolve(Request(LOCAL, "fsdp"))
    assert resolved.run.init is None
    assert resolved.run.model.num_positions == resolved.run.model.max_seq_len


def test_another_tokenizer_that_was_asked_for_is_taken(folder: Path) -> None:
    assert resolve(request(folder, "data.tokenizer=bpe:300")).run.data.tokenizer == "bpe:300"


def test_without_a_tokenizer_the_configs_say_which(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    resolved = resolve(request(folder))
    assert resolved.run.data.tokenizer == "bpe:2048"
    assert any("they bring no tokenizer" in note for note in resolved.notes)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).touch()
    assert resolve(request(folder)).run.data.tokenizer == str(folder)


def test_agreeing_is_no_contradiction(folder: Path) -> None:
    assert resolve(request(folder, "model.model_dim=48", "model.max_seq_len=200")).run.model.max_seq_len == 200


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.model_dim=64", "model.model_dim: 64 was asked for, and the weights to start from have 48"),
        ("model.tie_embeddings=true", "model.tie_embeddings: True was asked for"),
        ("model.vocab_size=50257", "model.vocab_size: 50257 was asked for, and the weights to start from have 320"),
        (
            "model.max_seq_len=201",
            "model.max_seq_len: 201 was asked for, and the weights to start from have positions for 200"
            " | use at most 200",
        ),
    ],
)
def test_a_contradiction_is_refused(folder: Path, override: str, told: str) -> None:
    assert only_problem(request(folder, override)).startswith(f"--override {override}: {told}")


def test_a_contradiction_in_a_file_for_this_run_names_its_line(folder: Path) -> None:
    Path("m.yaml").write_text("model:\n  num_layers: 6\n")
    assert "m.yaml:2: model.num_layers: 6 was asked for" in report(request(folder, config=Path("m.yaml")))


def test_samples_shared_by_every_run_are_shortened(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"n_positions": 64}))
    resolved = resolve(request(folder))
    assert (resolved.run.model.max_seq_len, resolved.run.training.batch_size) != (128, 32)
    assert resolved.run.model.max_seq_len == 64
    assert any("model.max_seq_len" in note and "64" in note for note in resolved.notes)


def test_other_problems_are_told_with_it(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": "bert"}))
    text = report(request(folder, "seed=1.5"))
    assert "is a model of type 'bert'; only gpt2, llama, qwen2, qwen3, mistral can be loaded" in text
    assert "seed: must be a whole number" in text


def test_simple_nn_has_no_such_weights(folder: Path) -> None:
    with pytest.raises(ConfigError, match="are a GPT's; this run's model is nn"):
        resolve(request(folder, model="nn"))
