"""What the modules of services and of old runs do on a node, and the command by which a Windows PC does the same."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from smolcluster.cli import main
from smolcluster.jobs import schtasks, systemd
from smolcluster.jobs.bootservice import note_path
from smolcluster.jobs.types import JobError
from smolcluster.jobs.upkeep import Upkeep, act

from .conftest import NodeMaker
from .stand_ins import put_first


def test_noted_found_and_forgotten(new_node: NodeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "present", lambda: True)
    node = new_node("run", "run", serves=True)
    of_file = {"node_file": str(node.file)}
    of_node = {"workdir": str(node.workdir), "node": "node1"}
    assert act(Upkeep(state="found", **of_node)) == {"changed": False, "boot": None}
    planned = act(Upkeep(state="planned", **of_file))
    assert not note_path(node.workdir, "node1").exists()
    assert act(Upkeep(state="noted", **of_file)) == planned | {"changed": True}
    assert act(Upkeep(state="noted", **of_file)) == planned
    assert act(Upkeep(state="found", **of_node)) == planned
    assert act(Upkeep(state="forgotten", **of_node)) == planned | {"changed": True}
    assert act(Upkeep(state="forgotten", **of_node)) == {"changed": False, "boot": None}


def test_a_windows_pc_installs_and_removes_by_the_command(
    new_node: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins = put_first(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr("smolcluster.jobs.bootservice.here", lambda: "windows")
    node = new_node("run", "run", serves=True)

    def upkeep(**action: object) -> dict[str, object]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(action).encode())))
        assert main(["job", "upkeep"]) == 0
        answer: dict[str, object] = json.loads(capsys.readouterr().out)
        return answer

    assert upkeep(state="asked") == {"changed": False, "administrator": True}, (
        "this is no session of an administrator's"
    )
    monkeypatch.setattr(schtasks, "administrator", lambda: True)
    assert upkeep(state="asked") == {"changed": False, "administrator": False}
    first = upkeep(state="installed", node_file=str(node.file))
    assert first["changed"] is True
    assert upkeep(state="installed", node_file=str(node.file))["changed"] is False
    (name,) = stand_ins.tasks()
    assert name.startswith("boot-node1-")
    task = note_path(node.workdir, "node1").read_text()
    assert "desk\\\\ann" in task
    assert upkeep(state="removed", workdir=str(node.workdir), node="node1")["changed"] is True
    assert stand_ins.tasks() == []
    full = schtasks.FOLDER + name
    assert stand_ins.calls()[-2:] == [["schtasks", "/End", "/TN", full], ["schtasks", "/Delete", "/TN", full, "/F"]]
    assert upkeep(state="removed", workdir=str(node.workdir), node="node1")["changed"] is False
    assert upkeep(workdir=str(node.workdir), keep=1) == {
        "changed": False,
        "freed": {"runs": [], "caches": [], "bytes": 0, "kept": {}, "reports": []},
    }


def test_what_serving_at_boot_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "present", lambda: True)
    for lingers in (True, False):
        monkeypatch.setattr(systemd, "usable", lambda lingers=lingers: lingers)
        assert act(Upkeep(state="asked"))["administrator"] is not lingers
    monkeypatch.setattr(systemd, "present", lambda: False)
    with pytest.raises(JobError, match="nothing here starts what is to be served"):
        act(Upkeep(state="asked"))
