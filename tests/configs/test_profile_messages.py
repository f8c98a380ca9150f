"""profile.json on the way into a plan: found beside the inventory, of another run, damaged; every message."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smolcluster.commands import check, plan, prepare, profile
from smolcluster.errors import ConfigError
from smolcluster.plan.types import Plan, ProfilePlan

from .conftest import HOME, LOCAL

app = typer.Typer()
app.command("check")(check.check)
app.command("plan")(plan.plan)
app.command("prepare")(prepare.prepare)
app.command("profile")(profile.profile)
BY_HAND = {"schema": 1, "speeds": {"node1": 1, "node2": 1, "node3": 2}}
AUTO = ("--override", "balance=auto")


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
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded default as a person's own inventory; the current folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.smol.yml").write_text(LOCAL.read_text())
    return tmp_path / "own.smol.yml"


def beside(own: Path, value: object) -> Path:
    path = own.parent / "profile.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_profile_beside_the_inventory_is_an_input_of_the_plan(own: Path) -> None:
    file = beside(own, BY_HAND)
    made = Plan.model_validate_json(call("plan", "-i", own, *AUTO)[0])
    assert [rank.samples for rank in made.ranks] == [6, 6, 12]
    assert made.inputs["profile.json"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert call("plan", "-i", own, *AUTO)[0] == made.to_json()
    named = file.rename(own.parent / "mine.json")
    again = Plan.model_validate_json(call("plan", "-i", own, *AUTO, "--profile", named)[0])
    assert again.ranks == made.ranks


def test_a_profile_that_a_run_has_nothing_to_do_with_is_left_alone(own: Path) -> None:
    without = call("plan", "-i", own)[0]
    beside(own, BY_HAND)
    assert call("plan", "-i", own)[0] == without


def test_check_and_prepare_go_by_it_too(own: Path) -> None:
    assert "balance: auto needs measured speeds" in refused("check", "-i", own, *AUTO)
    assert "balance: auto needs measured speeds" in refused("prepare", "-i", own, *AUTO)
    beside(own, BY_HAND)
    assert "balance auto: node1 6, node2 6, node3 12 of 24 samples" in call("check", "-i", own, *AUTO)[1]


BROKEN = {
    "no JSON": ("no", ("profile.json: Invalid JSON",)),
    "no object": ("[]", ("profile.json: Input should be an object",)),
    "another version": ({"schema": 2, "speeds": {}}, ("profile.json: schema: is version 2; this smolcluster reads",)),
    "several mistakes": (
        {"schema": 1, "speeds": {"node1": 0, "node2": "fast"}, "sped": {}},
        ("3 problems", "speeds.node1: Input should be greater than 0", "speeds.node2: Input should be a valid", "sped"),
    ),
    "a link": (
        {"schema": 1, "speeds": {"node1": 1}, "links": [{"src": "a", "dst": "b", "mbps": -1, "rtt_ms": 0}]},
        ("links.0.mbps: Input should be greater than 0",),
    ),
}


@pytest.mark.parametrize(("text", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_profile_is_told_with_all_the_rest(own: Path, text: object, told: tuple[str, ...]) -> None:
    beside(own, text)
    for part in told:
        assert part in refused("check", "-i", own)
    report = refused("check", "-i", own, "--override", "training.batch_size=0")
    assert told[-1] in report
    assert "training.batch_size" in report
    again = f"ansible-playbook -i {own.name} train.yml -e profile=true"
    assert f"fix: measure again (python -m smolcluster profile, or {again})" in report


def test_a_profile_that_is_not_there(own: Path) -> None:
    report = refused("plan", "-i", own, "--profile", "nowhere.json", "--override", "seeed=1")
    assert "nowhere.json: cannot be read: No such file or directory" in report
    assert "did you mean seed?" in report


def test_nodes_auto_by_flag_and_by_override(own: Path) -> None:
    for said in (("--nodes", "auto"), ("--override", "nodes=auto")):
        report = refused("plan", "-i", own, *said)
        assert "nodes: auto needs measured speeds, and there is no profile.json beside the inventory" in report
    report = refused("plan", "-i", own, "--strategy", "inference", "--nodes", "auto", "--model", "nowhere")
    assert "nodes[0]: auto chooses the machines of a training, by predicted times of a step" in report


def test_a_plan_of_measuring_needs_no_profile(own: Path) -> None:
    beside(own, "damaged")
    for strategy in ("fsdp", "single"):
        out = call("plan", "-i", own, "--measure", "--strategy", strategy, "--nodes", "auto", *AUTO)[0]
        made = ProfilePlan.model_validate_json(out)
        assert out == made.to_json()
        assert [rank.node for rank in made.ranks] == ["node1", "node2", "node3"]
        assert made.inputs.keys().isdisjoint({"profile.json"})


def test_the_command_measures_on_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = refused("profile", "-i", HOME, "--nodes", "mini1,mini2")
    assert "mini1, mini2 is reached over the network, and this command only measures on this machine" in report
    assert "ansible-playbook train.yml -e profile=true" in report
    assert list(tmp_path.iterdir()) == []
