"""Each module that nodes run has a twin for Windows, with the same options, which asks the same of smolcluster."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from powershell_options import options_of

from smolcluster.jobs.acting import Action
from smolcluster.jobs.parcel import Step
from smolcluster.spec.base import Frozen

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "playbooks" / "library"
MODULES = sorted(path.stem for path in LIBRARY.glob("*.py"))
ASKED: dict[str, tuple[str, type[Frozen]]] = {"smolcluster_job": ("act", Action), "smolcluster_tree": ("parcel", Step)}


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
    assert sorted(path.stem for path in LIBRARY.glob("*.ps1")) == MODULES == sorted(ASKED)


@pytest.mark.parametrize("module", MODULES)
def test_the_twins_take_the_same_options(module: str) -> None:
    options = options_of((LIBRARY / f"{module}.ps1").read_text(encoding="utf-8"))
    assert options.spec == constant(module, "_ARGUMENTS")
    # PowerShell has no interpreter of its own, so there it must be said.
    states = {value: needed for _, value, needed in options.needs}
    assert set(states) == set(options.spec["state"]["choices"])
    needs = {value: needed for _, value, needed in constant(module, "_NEEDS")}
    assert states == {state: [*needs.get(state, []), "python"] for state in states}


@pytest.mark.parametrize("module", MODULES)
def test_smolcluster_knows_every_option(module: str) -> None:
    command, fields = ASKED[module]
    script = (LIBRARY / f"{module}.ps1").read_text(encoding="utf-8")
    assert re.search(rf"^Invoke-Smolcluster -Module \$module -Command '{command}'$", script, re.MULTILINE)
    options = constant(module, "_ARGUMENTS")
    assert set(options) - {"python"} == set(fields.model_fields)
    literal = fields.model_json_schema()["properties"]["state"]["enum"]
    assert literal == options["state"]["choices"]


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


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
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
