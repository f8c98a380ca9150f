"""`generate` as a person calls it: what it prints, and how it fails."""

import json
import os
import subprocess
import sys

import pytest

from smolcluster.commands.generate import find_model
from smolcluster.data.tokenizer import load_tokenizer, train_bpe
from smolcluster.errors import ConfigError
from smolcluster.models import build_model
from smolcluster.models.hf import load_pretrained, save_pretrained
from smolcluster.models.sampling import Sampling, continuation


@pytest.fixture
def run(tmp_path, gpt_spec):
    """A run folder with a model, and `latest`."""
    folder = tmp_path / "runs" / "20260101-000000-fsdp-abcd"
    tokenizer = train_bpe(["Once upon a time, små 🦙\n"] * 5, 270).tokenizer
    folder.mkdir(parents=True)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = build_model(gpt_spec(vocab_size=tokenizer.get_vocab_size(), max_seq_len=32), seed=1)
    save_pretrained(model, tmp_path / "tokenizer.json", folder / "model")
    (folder / "plan.json").write_text("{}")
    (tmp_path / "runs" / "latest").symlink_to(folder.name)
    return folder


def generate(*arguments, **environment):
    command = [sys.executable, "-m", "smolcluster", "generate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60, env=os.environ | environment, check=False)


def test_latest_continues_the_prompt_and_the_seed_repeats_it(run):
    latest = run.parent / "latest"
    # An untrained model writes bytes at random: as good a test of UTF-8 as any, here into a console that is not.
    first = generate(latest, "Once små", "--seed", 3, "--max-new-tokens", 60, PYTHONIOENCODING="ascii")
    assert first.returncode == 0, first.stderr
    assert first.stderr == b""
    text = first.stdout.decode()
    assert text.startswith("Once små")
    assert len(text) > 60
    model = generate(run / "model", "Once små", "--seed", 3, "--max-new-tokens", 60)
    assert model.stdout == first.stdout


def test_flags_and_an_empty_prompt(run, capsys):
    from smolcluster.cli import main

    def out(*flags):
        assert main(["generate", str(run), "Once", "--max-new-tokens", "12", *flags]) == 0
        return capsys.readouterr().out

    greedy = out("--greedy")
    assert greedy == out("--greedy", "--seed", "9") == out("--temperature", "0") == out("--top-k", "1")
    assert greedy != out("--temperature", "2", "--top-k", "0")
    assert main(["generate", str(run), "--max-new-tokens", "5"]) == 0
    assert main(["generate", str(run), "x", "--top-p", "0"]) == 2
    assert "top-p must be above 0" in capsys.readouterr().err


def test_the_text_is_all_that_the_tokens_say(run, capsys):
    """An untrained model stops in the middle of a character as often as not."""
    from smolcluster.cli import main

    tokenizer, model = load_tokenizer(str(run / "model")).tokenizer, load_pretrained(run / "model")
    prompt = tokenizer.encode("Once").ids
    for count in range(1, 8):
        assert main(["generate", str(run), "Once", "--max-new-tokens", str(count), "--temperature", "2"]) == 0
        made = continuation(model, prompt, count, Sampling(2.0, 40), seed=42)
        assert capsys.readouterr().out == tokenizer.decode([*prompt, *made]) + "\n"


def fails(where):
    with pytest.raises(ConfigError) as caught:
        find_model(where)
    assert caught.value.exit_code == 2
    assert "configuration" not in str(caught.value)
    return str(caught.value)


def test_a_run_that_is_not_there_names_those_that_are(run, tmp_path):
    message = fails(run.parent / "20260101-nothing")
    assert "there is no such run or model" in message
    assert f"fix: try {run}" in message
    assert "fix: train one: ansible-playbook train.yml" in fails(tmp_path / "no" / "runs")


def test_a_run_is_found_by_its_name(run, monkeypatch, capsys):
    from smolcluster.cli import main

    monkeypatch.chdir(run.parent.parent)
    outs = []
    for name in ("latest", run.name, f"runs/{run.name}"):
        assert main(["generate", name, "Once", "--max-new-tokens", "4"]) == 0
        outs.append(capsys.readouterr().out)
    assert len(set(outs)) == 1
    assert main(["generate", "lastest", "Once"]) == 2
    said = capsys.readouterr().err
    assert "there is no such run or model" in said
    assert "did you mean latest?" in said


def test_a_run_that_served_a_model_names_the_last_that_trained(run, monkeypatch, capsys):
    from smolcluster.cli import main

    served = run.parent / "20260103-000000-inference-0000"
    (served / "model").mkdir(parents=True)
    (served / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (served / "plan.json").write_text(json.dumps({"kind": "inference"}))
    (run.parent / "latest").unlink()
    (run.parent / "latest").symlink_to(served.name)
    monkeypatch.chdir(run.parent.parent)
    assert main(["generate", "runs/latest", "Once"]) == 2
    said = capsys.readouterr().err
    assert "runs/latest: is a run that served a model, and trained none" in said
    assert f"fix: the last run that trained a model: runs/{run.name}" in said


def test_a_run_without_a_model_says_how_it_ended(run):
    other = run.parent / "20260102-000000-fsdp-0000"
    other.mkdir()
    (other / "plan.json").write_text("{}")
    assert "this run has no model: it has not ended, or was not collected" in fails(other)
    (other / "summary.json").write_text(json.dumps({"status": "failed", "reason": "rank 1: loss is nan"}))
    assert "this run has no model: it failed (rank 1: loss is nan)" in fails(other)
    assert f"fix: try {run}" in fails(other)


def test_other_things_are_not_models(run, tmp_path):
    assert "neither a run folder nor a model folder" in fails(tmp_path)
    assert "is a file" in fails(tmp_path / "tokenizer.json")


def test_a_tokenizer_of_another_model_is_refused(run, capsys):
    from smolcluster.cli import main

    train_bpe(["quite another text, quite another text\n" * 3], 290).tokenizer.save(
        str(run / "model" / "tokenizer.json")
    )
    assert main(["generate", str(run), "quite another text"]) == 2
    assert "the model knows only 270 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("tokenizer.json", None, "has neither tokenizer.json nor vocab.json with merges.txt"),
        ("tokenizer.json", "{}", "is not a tokenizer.json of the tokenizers library"),
        ("model.safetensors", "garbage", "cannot be read"),
        ("config.json", "[", "cannot be read"),
    ],
)
def test_a_broken_model_is_not_called_configuration(run, capsys, name, text, told):
    from smolcluster.cli import main

    file = run / "model" / name
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert main(["generate", str(run), "Once"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("1 problem.\n")
    assert told in err
    assert "--override" not in err
    assert "fix: " in err
