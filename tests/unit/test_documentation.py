"""Documents that can rot: the file map, the links, the commands, the keys of the configuration page."""

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smolcluster.cli import app_of
from smolcluster.spec.clusterfile import CLUSTER_FILES
from smolcluster.spec.modelfile import GPTFile, NNFile, ServedModel

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "documentation" / "configuration.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "documentation").glob("*.md"), *ROOT.glob("roles/*/README.md")])


def file_map() -> set[str]:
    section = README.split("## Where things are", 1)[1]
    rows = re.findall(r"^\| (`.+?`) \|", section, flags=re.M)
    return {entry for row in rows for entry in re.findall(r"`([^`]+)`", row)}


def packages() -> set[str]:
    folders = {p.parent.relative_to(ROOT).as_posix() + "/" for p in (ROOT / "smolcluster").rglob("*.py")}
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "smolcluster").glob("*.py") if not p.name.startswith("__")}
    return (folders | files) - {"smolcluster/"}


def test_the_file_map_has_every_package_and_no_other():
    listed = {entry for entry in file_map() if entry.startswith("smolcluster/")}
    assert listed == packages() | {"smolcluster/configs/", "smolcluster/chat/frontend/", "smolcluster/chat/page/"}


def test_everything_in_the_file_map_exists():
    missing = [entry for entry in file_map() if not (ROOT / entry).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_commands_that_are_named_exist():
    """Every `python -m smolcluster X` in the documents answers --help; every playbook named is there."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for command in sorted(set(re.findall(r"python -m smolcluster ([a-z]+(?:-[a-z]+)*)", text))):
        assert CliRunner().invoke(app_of(), [command, "--help"]).exit_code == 0, command
    for playbook in sorted(set(re.findall(r"(?<![.\w])([a-z]+\.yml)\b(?=[` ·])", README))):
        assert (ROOT / playbook).exists() or list(ROOT.glob(f"inventory/**/{playbook}")), playbook


def commands(group, path=""):
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")


def test_help_says_all_that_is_written():
    """What stands in square brackets is markup to rich, which --help would leave out: defaults go into show_default."""
    for name, command in commands(typer.main.get_command(app_of())):
        texts = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
        assert not [text for text in texts if re.search(r"\[[a-z/]", text)], name
    shown = CliRunner().invoke(app_of(), ["check", "--help"], env={"COLUMNS": "200"}).output
    assert "else inventory/local.smol.yml" in shown


def key_paths(model, prefix=""):
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and hasattr(section, "model_fields"):
            yield from key_paths(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("strategy", sorted(CLUSTER_FILES))
def test_every_key_of_a_cluster_file_is_documented(strategy):
    for key in CLUSTER_FILES[strategy].model_fields:
        assert f"`{key}`" in CONFIGURATION, key


@pytest.mark.parametrize("model", [GPTFile, NNFile, ServedModel], ids=lambda m: m.__name__)
def test_every_key_of_a_model_file_is_documented(model):
    text = CONFIGURATION.replace(
        "`gradient_clipping: {enabled, max_norm}`", "`gradient_clipping.enabled` `gradient_clipping.max_norm`"
    )
    repeats = {"num_nodes", "num_layers"}
    for key in key_paths(model):
        assert f"`{key}`" in text or key in repeats, key
