"""`python -m smolcluster job ...`: JSON on stdout, words on stderr, exit codes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from smolcluster.cli import main
from smolcluster.jobs.launch import start_job
from smolcluster.jobs.nodefile import load_node
from smolcluster.jobs.stop import stop_job

from .conftest import NodeMaker
from .node import FAKE_SUPERVISOR


@pytest.fixture(autouse=True)
def fake_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.jobs.launch.start_job", partial(start_job, supervisor=FAKE_SUPERVISOR))


def test_start_poll_status_stop(new_node: NodeMaker, capsys: pytest.CaptureFixture[str]) -> None:
    node = new_node("run", lease_s=30.0)
    where = ["--run-dir", str(node.run_dir), "--node", "node1"]
    assert main(["job", "start", str(node.file)]) == 0
    started = json.loads(capsys.readouterr().out)
    assert (started["state"], started["run_id"], started["schema"]) == ("running", "run-a", 1)
    node.remember()
    assert main(["job", "poll", *where, "--no-renew"]) == 0
    polled = json.loads(capsys.readouterr().out)
    assert set(polled) == {"job", "progress", "failed", "serving", "tablets", "time", "pieces"}
    assert polled["pieces"] == []
    assert polled["job"]["ranks"] == {"0": "running"}
    assert main(["job", "status", "--workdir", str(node.workdir)]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert [(entry["job"]["run_id"], entry["active"]) for entry in listed] == [("run-a", True)]
    assert 30.0 < listed[0]["lease_s"] <= 75.0, "what is left of its first term, which looking has not renewed"
    assert main(["job", "start", str(node.file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "ansible-playbook stop.yml" in said.err
    assert main(["job", "stop", *where, "--reason", "lunch"]) == 0
    stopped = json.loads(capsys.readouterr().out)
    assert (stopped["state"], stopped["reason"]) == ("stopped", "lunch")
    main(["job", "status", "--workdir", str(node.workdir)])
    last = json.loads(capsys.readouterr().out)["runs"][0]
    assert (last["active"], last["lease_s"]) == (False, None)
    node.gone()


def test_start_that_fails(new_node: NodeMaker, capsys: pytest.CaptureFixture[str]) -> None:
    node = new_node("run", python="/nowhere/python")
    assert main(["job", "start", str(node.file)]) == 3
    said = capsys.readouterr()
    assert json.loads(said.out)["state"] == "failed"
    assert "cannot start /nowhere/python" in said.err


@pytest.mark.parametrize("command", ["poll", "stop"])
def test_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(["job", command, "--run-dir", str(tmp_path / "none"), "--node", "pi"]) == 2
    assert "pi: there is no run in" in capsys.readouterr().err


def test_no_runs_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "status", "--workdir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == []


@pytest.mark.parametrize("serves", [False, True])
def test_a_run_that_goes_on_has_no_report_yet(
    new_node: NodeMaker, capsys: pytest.CaptureFixture[str], serves: bool
) -> None:
    node = new_node("run", "run", serves=serves, lease_s=30.0)
    node.folder.plan.write_bytes(Path(load_node(node.file).plan_file).read_bytes())
    node.start()
    assert main(["report", str(node.run_dir)]) == 0
    assert "it is still running (node1)" in capsys.readouterr().out
    assert not node.folder.summary.exists()
    node.remember()
    stop_job(node.run_dir, "node1")
    node.gone()
    assert main(["report", str(node.run_dir)]) == 0
    assert "stopped" in capsys.readouterr().out
    assert json.loads(node.folder.summary.read_text())["status"] == "stopped"
