"""setup.json: what the playbook knows of each machine, written down."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from smolcluster import __version__
from smolcluster.cli import app_of, run_app
from smolcluster.provision.plan import Step
from smolcluster.provision.report import Environment, Failure, Machine, Setup
from tests.provision.machines import found, interpreter

NOTE = {"python": "/usr/bin/python3.11", "build": "cpu", "extras": ["serve"]}


def told(name: str, **more: Any) -> dict[str, Any]:
    """A machine of which nothing but its name is known, as roles/setup_report tells it."""
    empty = {"kind": "linux", "address": f"{name}.local", "user": "", "why_not": "", "well": False, "failed": None}
    return {"name": name, **empty, "looked": "", "step": None, "put": "", **more}


def step(state: str, **more: Any) -> dict[str, Any]:
    return Step.model_validate({"state": state, **more}).model_dump(mode="json")


def looked(kind: str = "pi", **more: Any) -> str:
    return found(interpreter(kind), node="raspberrypi", **more).model_dump_json(by_alias=True)


def kept(folder: Path, monkeypatch: pytest.MonkeyPatch, *machines: dict[str, Any]) -> tuple[Machine, ...]:
    given = json.dumps({"tags": ["all"], "machines": machines})
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert run_app(app_of(), ["provision", "report", str(folder)]) == 0
    text = (folder / "setup.json").read_text()
    assert json.loads(text)["schema"] == 1
    setup = Setup.model_validate_json(text)
    assert (setup.smolcluster, setup.tags) == (__version__, ("all",))
    return setup.machines


def test_what_was_installed_and_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = json.dumps({"version": __version__, "torch": "2.13.0+cpu", "node": "raspberrypi"})
    new = told("pi5", well=True, looked=looked(), step=step("install", order={"note": NOTE}), put=put)
    same = told("pi4", well=True, looked=looked(note={**NOTE, "torch": "2.13.0+cpu"}), step=step("ready"))
    first, second = kept(tmp_path, monkeypatch, new, same)
    assert first.environment == Environment(
        state="install", why="", whole=True, system="Linux  aarch64", python="/usr/bin/python3.11",
        python_version="3.11.2", torch="2.13.0+cpu", build="cpu", extras=("serve",), cuda=False, free_mb=50_000,
    )  # fmt: skip
    assert second.environment == first.environment.model_copy(update={"state": "ready"})
    assert (first.reached, first.well, first.failed, first.hostname) == (True, True, None, "raspberrypi")


def test_what_went_wrong_without_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "pip ended with 1:\nno index at https://ann:hunter2@index.example/simple token=hunter2 " + "x" * 9000
    failed = {"task": "Install smolcluster", "message": f"{message}\nand that was all"}
    half = told("pi5", failed=failed, looked=looked(), step=step("install", order={"note": NOTE}))
    off = told("mini1", kind="macos", why_not="ssh: connect to host mini1.local: No route to host")
    old = told("pi3", looked=looked(), step=step("refused", why="/usr/bin/python3.11 is a 32-bit one"))
    left = told("own", well=True)
    odd = told("odd", looked="Traceback", step=step("python", why="there is no Python 3.11 or newer"), put="[]")
    half_row, off_row, old_row, left_row, odd_row = kept(tmp_path, monkeypatch, half, off, old, left, odd)

    assert half_row.failed is not None
    assert half_row.failed.message.endswith("x\nand that was all")
    assert len(half_row.failed.message) == 4000
    assert half_row.environment is not None
    assert (half_row.environment.whole, half_row.environment.torch) == (False, "")
    assert (off_row.reached, off_row.why_not) == (False, "ssh: connect to host mini1.local: No route to host")
    assert old_row.environment is not None
    assert old_row.environment.why == "/usr/bin/python3.11 is a 32-bit one"
    assert (old_row.environment.system, old_row.environment.python) == ("Linux  aarch64", "")
    assert (left_row.well, left_row.environment) == (True, None)
    assert odd_row.environment == Environment(state="python", why="there is no Python 3.11 or newer", whole=False)

    short = told("pi5", failed={"task": "Install smolcluster", "message": message.partition(" xx")[0]})
    [row] = kept(tmp_path, monkeypatch, short)
    assert row.failed == Failure(
        task="Install smolcluster",
        message="pip ended with 1:\nno index at https://<secret>@index.example/simple token=<secret>",
    )


def test_another_call_than_the_playbooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"machines": []}'))
    assert run_app(app_of(), ["provision", "report", str(tmp_path)]) == 2
    assert "tags: Field required" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
