"""`check` and `plan` as a person calls them: exit codes, what goes to stdout, what to stderr."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smolcluster.certs.authority import Authority
from smolcluster.certs.places import RENEW, authority_folder
from smolcluster.cli import main
from smolcluster.commands import check, plan
from smolcluster.commands._inventory import again, naming
from smolcluster.errors import ConfigError, InputError, Problem
from smolcluster.plan.types import Plan

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


OWN = "schema: 1\nname: mine\nmachines: {here: {connection: local}}\n"


def refused(*arguments: object) -> str:
    """The report of a command that refuses."""
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    return str(error.value)


@pytest.mark.parametrize("line", ["inventory = own/mine.smol.yml", "inventory=own/mine.smol.yml ; my machines"])
def test_the_inventory_that_ansible_cfg_names_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ansible.cfg").write_text(f"[defaults]\n# 100% mine\n{line}\nforks = 5%\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.smol.yml").write_text(OWN)
    assert "on mine: 1 rank (here)" in call("check", "--strategy", "single")[0]
    assert "on local: 1 rank (node1)" in call("check", "--strategy", "single", "-i", LOCAL)[0]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("[defaults]\ninventory = gone.smol.yml\n", 'ansible.cfg: inventory: there is no file "gone.smol.yml"'),
        ("[defaults]\ninventory = a.yml, b.yml\n", 'ansible.cfg: inventory: "a.yml, b.yml" is several inventories'),
        ("inventory = a.yml\n", "ansible.cfg: cannot be read: File contains no section headers."),
    ],
)
def test_an_ansible_cfg_that_leads_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ansible.cfg").write_text(config)
    text = refused("check")
    assert told in text
    assert "with -i" in text


@pytest.mark.parametrize("config", [None, "[defaults]\nforks = 5\n", "[defaults]\ninventory =\n"])
@pytest.mark.parametrize("command", ["check", "plan"])
def test_elsewhere_the_shipped_inventory_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str | None, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if config is not None:
        (tmp_path / "ansible.cfg").write_text(config)
    assert "local" in call(command, "--strategy", "single")[0]


def test_without_any_inventory_the_default_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smolcluster.commands._inventory.__file__", str(tmp_path / "a" / "b" / "c.py"))
    text = refused("check")
    assert "inventory/local.smol.yml: is the inventory when none is given" in text
    assert "fix: give one with -i, or run in the project's folder" in text


@pytest.mark.parametrize("flag", ["--nodes", "--strategy"])
@pytest.mark.parametrize("value", ["", " , "])
def test_an_empty_flag_is_refused(flag: str, value: str) -> None:
    if flag == "--strategy" and value:
        assert "there is no such strategy" in refused("check", "-i", LOCAL, flag, value)
    else:
        assert f"{flag}: is empty\n" in refused("check", "-i", LOCAL, flag, value)


@pytest.mark.parametrize("command", [(), ("check",), ("job", "poll"), ("generate",)])
def test_h_is_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "-h"]) == 0
    assert "Usage" in capsys.readouterr().out


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
    task = (tmp_path / "hosts" / "win" / "smolcluster-task.xml").read_bytes()
    assert ElementTree.fromstring(task).tag.endswith("}Task"), "written in the encoding that it says"


@pytest.mark.parametrize("strategy", ["edp", "syncps"])
def test_the_strategy_is_read_from_the_cluster_yaml(strategy: str) -> None:
    """The guide's blocks with a Windows worker, from an inventory and alone."""
    block = FIXTURES / f"cluster_config_{strategy}.yaml"
    for flags in (("-i", block), ("-i", HOME, "--cluster-config", block)):
        call("check", *flags)
        plan = Plan.model_validate_json(call("plan", *flags)[0])
        assert (plan.run.strategy, plan.transport) == (strategy, "smol"), "gloo cannot join two operating systems"
        assert [(rank.node, rank.role, rank.device, rank.buffer_mb) for rank in plan.ranks] == [
            ("mini1", "server", "auto", 8),
            ("pi5", "worker", "auto", 2),
            ("win", "worker", "auto", 1),
            ("macbook", "worker", "auto", 8),
        ]
        assert set(plan.ranks[2].peers) == {0}


def test_settings_with_commas_are_those_of_several_flags() -> None:
    settings = ("training.max_steps=7", "nodes=[node1,node3]", "fsdp_stage=2")
    one, _ = call("plan", "-i", LOCAL, "--override", ",".join(settings))
    assert one == call("plan", "-i", LOCAL, *(word for text in settings for word in ("--override", text)))[0]
    run = json.loads(one)["run"]
    assert (run["training"]["max_steps"], run["fsdp_stage"]) == (7, 2)
    assert [node["node"] for node in run["participants"]] == ["node1", "node3"]


def test_a_playbook_that_is_told_of_is_called_with_the_inventory_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, other = tmp_path / "mine.smol.yml", tmp_path / "other.smol.yml"
    for path in (mine, other):
        path.write_text(OWN)
    text = "ansible-playbook setup.yml, or ansible-playbook stop.yml; not setup.yml alone"
    call_it = "ansible-playbook -i other.smol.yml"
    named = f"{call_it} setup.yml, or {call_it} stop.yml; not setup.yml alone"
    assert again(text, other) == named
    # The one that is taken without -i needs no naming.
    Path("ansible.cfg").write_text("[defaults]\ninventory = mine.smol.yml\n")
    assert (again(text, mine), again(text, other)) == (text, named)
    with pytest.raises(InputError) as error, naming(other):
        raise InputError([Problem("here", 1, "key", RENEW, RENEW)])
    assert error.value.problems == (Problem("here", 1, "key", RENEW, f"{call_it} certificates.yml"),)


def test_nodes_without_a_certificate_are_refused_with_the_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("mine.smol.yml").write_text(LOCAL.read_text())
    Authority.create(authority_folder())
    report = refused("plan", "-i", "mine.smol.yml", "--override", "encrypt=always")
    assert "node1 has no certificate of this cluster yet" in report
    assert report.count("fix: ansible-playbook -i mine.smol.yml certificates.yml") == 3
