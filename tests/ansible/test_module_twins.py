"""Each module that nodes run has a twin for Windows, with the same options, which asks the same of smolcluster."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from powershell_options import options_of

from smolcluster.jobs.acting import Action
from smolcluster.jobs.parcel import Step
from smolcluster.jobs.upkeep import Upkeep
from smolcluster.runtime.newrun import fill_folder
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.base import Frozen
from tests.jobs.node import make_plan

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "playbooks" / "library"
WINDOWS = ROOT / "playbooks" / "library_windows"
MODULES = sorted(path.stem for path in LIBRARY.glob("*.py"))
ASKED: dict[str, tuple[str, type[Frozen]]] = {
    "smolcluster_boot": ("upkeep", Upkeep),
    "smolcluster_job": ("act", Action),
    "smolcluster_runs": ("upkeep", Upkeep),
    "smolcluster_tree": ("parcel", Step),
}
# What a module without the option `state` asks for: what its command does where none is said.
ALWAYS = {"smolcluster_runs": "pruned"}


def constant(module: str, name: str) -> Any:
    tree = ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        target = (
            node.targets[0]
            if isinstance(node, ast.Assign)
            else node.target
            if isinstance(node, ast.AnnAssign)
            else None
        )
        if isinstance(target, ast.Name) and target.id == name and node.value is not None:  # type: ignore[union-attr]
            return ast.literal_eval(node.value)  # type: ignore[union-attr]
    raise AssertionError(f"{module} has no {name}")


def test_both_are_there() -> None:
    assert sorted(path.name for path in WINDOWS.iterdir()) == [f"{name}.ps1" for name in MODULES]
    assert sorted(ASKED) == MODULES
    assert not list(LIBRARY.glob("*.ps1"))


_RESOLVE = """
import json, os, sys
listed = os.listdir
os.listdir = lambda path=".": sorted(listed(path), key=lambda name: name[::-1], reverse=sys.argv[1] == "reversed")
from ansible.plugins.loader import module_loader
names, kinds = sys.argv[3:], sys.argv[2].split(",")
print(json.dumps({kind: [module_loader.find_plugin(name, mod_type=kind) for name in names] for kind in kinds}))
"""


@pytest.mark.parametrize("order", ["sorted", "reversed"])
@pytest.mark.parametrize("kinds", [",.ps1", ".ps1,"])
def test_each_system_gets_its_own_whatever_a_folder_lists_first(order: str, kinds: str) -> None:
    """Ansible's own search, with the library of ansible.cfg: '' is what it asks for where there is Python, '.ps1' where
    the shell is PowerShell. In one process either is asked for first."""
    command = [sys.executable, "-c", _RESOLVE, order, kinds, *MODULES]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    found = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment).stdout)
    assert found[""] == [str(LIBRARY / f"{name}.py") for name in MODULES]
    assert found[".ps1"] == [str(WINDOWS / f"{name}.ps1") for name in MODULES]


@pytest.mark.parametrize("module", MODULES)
def test_the_twins_take_the_same_options(module: str) -> None:
    options = options_of((WINDOWS / f"{module}.ps1").read_text(encoding="utf-8"))
    # PowerShell has no interpreter of its own, so there it must be said.
    if module in ALWAYS:
        expected = constant(module, "_ARGUMENTS")
        assert options.spec == expected | {"python": expected["python"] | {"required": True}}
        assert options.needs == []
        return
    assert options.spec == constant(module, "_ARGUMENTS")
    states = {value: needed for _, value, needed in options.needs}
    assert set(states) == set(options.spec["state"]["choices"])
    needs = {value: needed for _, value, needed in constant(module, "_NEEDS")}
    assert states == {state: [*needs.get(state, []), "python"] for state in states}


@pytest.mark.parametrize("module", MODULES)
def test_smolcluster_knows_every_option(module: str) -> None:
    command, fields = ASKED[module]
    script = (WINDOWS / f"{module}.ps1").read_text(encoding="utf-8")
    assert re.search(rf"^Invoke-Smolcluster -Module \$module -Command '{command}'$", script, re.MULTILINE)
    options = constant(module, "_ARGUMENTS")
    asking = {name for name, (other, _) in ASKED.items() if other == command}
    asked_for = set().union(*(constant(name, "_ARGUMENTS") for name in asking)) - {"python"}
    assert set(options) - {"python"} <= set(fields.model_fields)
    assert asked_for == set(fields.model_fields), "together, the modules of one command ask for all that it takes"


@pytest.mark.parametrize("command", sorted({command for command, _ in ASKED.values()}))
def test_every_state_is_some_modules(command: str) -> None:
    modules = {name: fields for name, (other, fields) in ASKED.items() if other == command}
    (fields,) = set(modules.values())
    states: list[str] = []
    for name in modules:
        if name in ALWAYS:
            assert fields.model_fields["state"].default == ALWAYS[name]
            states.append(ALWAYS[name])
        else:
            states += constant(name, "_ARGUMENTS")["state"]["choices"]
    assert sorted(states) == sorted(fields.model_json_schema()["properties"]["state"]["enum"])


def ask(command: str, options: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """As the PowerShell does."""
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "smolcluster", "job", command], input=json.dumps(options),
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip


def test_what_the_twin_asks_is_answered_in_ascii(tmp_path: Path) -> None:
    workdir = tmp_path / "läufe"
    done = ask("act", {"state": "checked", "node": "win", "workdir": str(workdir)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    answer = json.loads(done.stdout)
    assert (answer["changed"], answer["workdir"], answer["jobs"]) == (False, str(workdir), [])
    assert answer["python"] == sys.executable


def test_upkeep_is_answered_in_ascii_too(tmp_path: Path) -> None:
    run = tmp_path / "läufe" / "der älteste"
    fill_folder(RunFolder(run), make_plan("win", ("run",)).to_json())
    RunFolder(run).summary.write_text("{}")
    os.utime(RunFolder(run).plan, (1_000_000, 1_000_000))
    fill_folder(RunFolder(run.parent / "new"), make_plan("win", ("run",)).to_json())
    done = ask("upkeep", {"workdir": str(run.parent), "keep": 1, "caches": True})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    answer = json.loads(done.stdout)
    assert (answer["changed"], answer["freed"]["runs"]) == (True, ["der älteste"])
    assert not run.exists()
    nothing = ask("upkeep", {"state": "found", "node": "win", "workdir": str(run.parent)})
    assert json.loads(nothing.stdout) == {"changed": False, "boot": None}


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("upkeep", {"state": "planned", "node_file": "/nowhere/node.yaml"}, "cannot be read: No such file"),
        ("upkeep", {"state": "begun"}, "state: Input should be 'asked'"),
        ("act", {"state": "polled", "node": "win", "run_dir": "/nowhere"}, "win: there is no run in /nowhere"),
        ("act", {"state": "started", "node_file": "/nowhere/node.yaml"}, "cannot be read: No such file"),
        ("act", {"state": "begun"}, "state: Input should be 'checked'"),
        ("parcel", {"state": "packed", "node": "win", "run_dir": "/nowhere"}, "no /nowhere/nodes/win"),
    ],
)
def test_what_cannot_be_done_is_told_on_stderr(command: str, options: dict[str, object], said: str) -> None:
    done = ask(command, options)
    assert done.returncode in (2, 3)
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
