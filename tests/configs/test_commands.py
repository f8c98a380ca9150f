"""`check` and `plan` as a person calls them: exit codes, what goes to stdout, what to stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smolcluster.commands import check, plan
from smolcluster.errors import ConfigError
from smolcluster.plan import Plan

from .conftest import FIXTURES, HOME, LOCAL

app = typer.Typer()
app.command("check")(check.check)
app.command("plan")(plan.plan)
runner = CliRunner()


def call(*arguments: object) -> tuple[str, str]:
    """stdout and stderr of a command that succeeds."""
    done = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_check_says_what_a_run_would_be() -> None:
    out, err = call("check", "-i", LOCAL)
    assert out == (
        "ok: fsdp on local: 3 ranks (node1, node2, node3), transport smol\n"
        "    gpt, 2,197,632 parameters, 24 samples a step\n"
    )
    assert err == ""


def test_the_default_inventory_is_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(LOCAL.parents[1])
    assert "ok: single on local: 1 rank (node1)" in call("check", "--strategy", "single")[0]


def test_check_refuses_with_exit_code_2() -> None:
    with pytest.raises(ConfigError) as refused:
        call("check", "-i", LOCAL, "--override", "training.batchsize=1")
    assert refused.value.exit_code == 2


def test_plan_is_json_alone_on_stdout_and_notes_go_to_stderr() -> None:
    block = FIXTURES / "cluster_config_fsdp.yaml"
    out, err = call("plan", "-i", HOME, "--cluster-config", block, "--override", "staleness_bound=0")
    made = Plan.model_validate_json(out)
    assert [rank.node for rank in made.ranks] == ["mini1", "mini2", "mini3"]
    assert err.count("note: ") == len(made.notes) == 3


def test_plan_to_a_file(tmp_path: Path) -> None:
    out, _ = call("plan", "-i", LOCAL, "--out", tmp_path / "new" / "plan.json")
    assert out == ""
    assert json.loads((tmp_path / "new" / "plan.json").read_text())["world_size"] == 3


def test_nodes_dataset_and_overrides_reach_the_plan(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("Once.")
    flags = (
        "--nodes",
        "node3, node1",
        "--dataset",
        book,
        "--override",
        "seed=7",
        "--override",
        "training.batch_size=2",
    )
    made = Plan.model_validate_json(call("plan", "-i", LOCAL, "--strategy", "classicdp", *flags)[0])
    assert [rank.node for rank in made.ranks] == ["node3", "node1"]
    assert (made.run.seed, made.run.data.path, made.global_batch) == (7, str(book), 4)


def test_plan_renders_the_hosts_files(tmp_path: Path) -> None:
    call("plan", "-i", HOME, "--render", tmp_path / "hosts")
    assert (tmp_path / "hosts" / "pi5" / "node.yaml").exists()
    assert (tmp_path / "hosts" / "mini1" / "smolcluster.plist").exists()
    assert not (tmp_path / "hosts" / "win").exists()


@pytest.mark.parametrize("strategy", ["edp", "syncps", "mp"])
def test_the_strategy_is_read_from_the_cluster_yaml(strategy: str) -> None:
    block = FIXTURES / f"cluster_config_{strategy}.yaml"
    for flags in (("-i", block), ("-i", HOME, "--cluster-config", block)):
        with pytest.raises(ConfigError, match=f"{strategy} is not built yet"):
            call("check", *flags)


def test_a_serving_config_is_checked_too() -> None:
    out, err = call("check", "-i", HOME, "--cluster-config", FIXTURES / "cluster_config_inference.yaml")
    assert out == "ok: causal_gpt2 on home: mini1 0:4, ipad 4:8, mini2 8:12\n"
    assert "server: said mini2, taken: mini1" in err
