"""`check`, `plan` and `prepare` of a served model, as a person calls them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smolcluster.commands import check, plan, prepare
from smolcluster.commands._serve_here import lay_out_serving
from smolcluster.commands._serving import plan_serving
from smolcluster.errors import ConfigError
from smolcluster.jobs.nodefile import load_node, load_plan
from smolcluster.plan.types import ServePlan
from smolcluster.spec.request import Request

from .conftest import FIXTURES, HOME, LOCAL
from .model_folders import GPT2, model_folder

app = typer.Typer()
app.command("check")(check.check)
app.command("plan")(plan.plan)
app.command("prepare")(prepare.prepare)
SERVE = ("--strategy", "inference")


def call(*arguments: object) -> tuple[str, str]:
    """stdout and stderr of a command that succeeds."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def refused(*arguments: object) -> str:
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.fixture
def gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, whole as far as files go; the current folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    folder = model_folder(tmp_path / "gpt2", GPT2)
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "pytorch_model.bin", "README.md"):
        (folder / name).write_text(f"the {name}")
    return folder


def test_check_says_who_has_what(gpt2: Path) -> None:
    out, err = call("check", "-i", LOCAL, *SERVE, "--model", "gpt2")
    assert out == (
        "ok: gpt2 on local: node1 0:6, node2 6:11, node3 11:12; API and page on node1\n"
        "    124,439,808 parameters in fp32, context 1024\n"
    )
    assert err == ""


def test_a_serving_config_makes_it_the_strategy(gpt2: Path) -> None:
    block = FIXTURES / "cluster_config_inference.yaml"
    out, _ = call("check", "-i", HOME, "--cluster-config", block, "--model", gpt2)
    assert "mini1 0:4, ipad 4:8, mini2 8:12; API and page on macbook" in out
    out, err = call("check", "-i", HOME, "--cluster-config", block, "--model", gpt2, "--nodes", "mini1,mini2")
    assert "mini1 0:9, mini2 9:12; API and page on mini1" in out
    assert "timeout: said 0.1, taken: request_timeout 300" in err


def test_plan_is_json_alone_on_stdout(gpt2: Path) -> None:
    out, err = call("plan", "-i", LOCAL, *SERVE, "--model", gpt2)
    made = ServePlan.model_validate_json(out)
    assert out == made.to_json()
    assert (made.kind, made.world_size, made.serve.model_name) == ("inference", 4, str(gpt2))
    assert made.inputs[str(gpt2 / "config.json")] == hashlib.sha256((gpt2 / "config.json").read_bytes()).hexdigest()
    assert err == ""
    assert call("plan", "-i", LOCAL, *SERVE, "--model", gpt2)[0] == out


def test_a_run_is_served_by_its_folder(gpt2: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    gpt2.rename(run / "model")
    (tmp_path / "runs" / "latest").symlink_to("one")
    for named in ("runs/latest", "runs/latest/model"):
        made = ServePlan.model_validate_json(call("plan", "-i", LOCAL, *SERVE, "--model", named)[0])
        assert made.serve.model_name == named
    (run / "model").rename(tmp_path / "elsewhere")
    assert "runs/one: is neither a run folder nor a model folder" in refused(
        "check", "-i", LOCAL, *SERVE, "--model", "runs/latest"
    )


def test_a_profile_is_read_where_it_is(gpt2: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.smol.yml"
    own.write_text(LOCAL.read_text())
    asked = ("-i", own, *SERVE, "--model", gpt2)
    even = ServePlan.model_validate_json(call("plan", *asked)[0])
    (tmp_path / "profile.json").write_text('{"schema": 1, "speeds": {"node3": 3.0}}')
    found = ServePlan.model_validate_json(call("plan", *asked)[0])
    (tmp_path / "profile.json").rename(tmp_path / "mine.json")
    named = ServePlan.model_validate_json(call("plan", *asked, "--profile", "mine.json")[0])
    assert even.stages != found.stages == named.stages
    assert set(found.inputs) - set(even.inputs) == {"profile.json"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "mine.json: cannot be read: No such file or directory"),
        ('{"schema": 2, "speeds": {}}', "mine.json: schema: is version 2; this smolcluster reads version 1"),
        ('{"schema": 1, "speeds": {"a": "fast"}}', "mine.json: speeds.a: Input should be a valid number"),
        ("no", "mine.json: Invalid JSON"),
    ],
)
def test_a_profile_that_cannot_be_read(gpt2: Path, tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "mine.json").write_text(text)
    report = refused("check", "-i", LOCAL, *SERVE, "--model", "nowhere", "--profile", "mine.json")
    assert told in report
    assert "--model nowhere: there is no such model to serve" in report


def test_weights_that_are_nowhere_are_told_with_the_rest(gpt2: Path) -> None:
    report = refused("check", "-i", LOCAL, *SERVE, "--model", "causal_gpt2", "--nodes", "node9")
    assert "2 problems in the configuration" in report
    assert "gpt2: openai-community/gpt2 is not in the local hub cache, and the hub was not to be asked" in report
    assert "or allow the download (--download; inference.yml: -e download=true)" in report
    assert '--nodes node9: nodes[0]: there is no machine "node9" in the inventory' in report


def test_an_empty_model_is_refused() -> None:
    assert "--model: is empty" in refused("check", "-i", LOCAL, *SERVE, "--model", "")


def test_prepare_makes_a_folder_of_what_a_node_needs(gpt2: Path, tmp_path: Path) -> None:
    asked = ("-i", LOCAL, *SERVE, "--model", "gpt2", "--cache", "kept")
    out, err = call("prepare", *asked)
    made = json.loads(out.splitlines()[-1])
    folder = Path(made["model_dir"])
    assert folder == tmp_path / "kept" / f"model-{made['model_hash'][:16]}"
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "config.json": (gpt2 / "config.json").read_text(),
        **{name: f"the {name}" for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja")},
    }
    assert f"model: {gpt2}, a copy in {folder}" in err
    before = (folder / "model.safetensors").stat().st_ino
    assert call("prepare", *asked)[0] == out
    assert (folder / "model.safetensors").stat().st_ino == before
    (gpt2 / "model.safetensors").write_text("another")
    other = json.loads(call("prepare", *asked)[0].splitlines()[-1])
    assert other["model_hash"] != made["model_hash"]
    assert (folder / "model.safetensors").read_text() == "the model.safetensors"


def test_prepare_takes_every_part_of_the_weights(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").rename(gpt2 / "model-00001-of-00002.safetensors")
    (gpt2 / "model-00002-of-00002.safetensors").write_text("two")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (gpt2 / "model.safetensors.index.json").write_text(json.dumps(index))
    out, _ = call("prepare", "-i", LOCAL, *SERVE, "--model", "gpt2", "--cache", "kept")
    folder = Path(json.loads(out.splitlines()[-1])["model_dir"])
    assert {file.name for file in folder.glob("model*")} == {
        *index["weight_map"].values(),
        "model.safetensors.index.json",
    }
    (gpt2 / "model-00002-of-00002.safetensors").unlink()
    assert "has no model-00002-of-00002.safetensors" in refused("prepare", "-i", LOCAL, *SERVE, "--model", "gpt2")


@pytest.mark.parametrize(("listen", "key"), [("loopback", False), ("[127.0.0.1, 10.10.0.1]", True)])
def test_the_folder_of_a_run_that_serves(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: str, key: bool
) -> None:
    """Beyond loopback there is a key, for the API's node alone; the model is for the stages' nodes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    settings = (f"web_interface.listen={listen}", "web_interface.host=mini1")
    request = Request(HOME, "inference", model=str(gpt2), nodes=("mini1", "mini2"), overrides=settings)
    served, made = plan_serving(request)
    assert made.api.asks_for_key is key
    run = lay_out_serving(served.cluster, made, gpt2)
    assert run.folder.path.parent == tmp_path / ".smolcluster" / "runs"
    configs = {node: load_node(file) for node, file in run.node_files.items()}
    assert {node: config.ranks for node, config in configs.items()} == {"mini1": (0, 2), "mini2": (1,)}
    assert [config.model_dir for config in configs.values()] == [str(gpt2), str(gpt2)]
    assert {node: config.api_key_file is not None for node, config in configs.items()} == {"mini1": key, "mini2": False}
    file = run.folder.path / "api_key"
    assert file.exists() is key
    if key:
        assert configs["mini1"].api_key_file == str(file)
        assert len(file.read_text().strip()) >= 43
        assert file.stat().st_mode & 0o077 == 0
    assert load_plan(configs["mini2"]) == made
