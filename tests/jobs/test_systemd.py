"""The systemd launcher, with a stand-in for systemd-run: it records how it was called and starts what it was given.

What a real systemd makes of the unit is not proved here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from smolcluster.jobs import systemd
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobError

from .conftest import NodeMaker

STAND_IN = f"""#!{sys.executable}
import subprocess, sys
from pathlib import Path
arguments = sys.argv[1:]
Path(__file__).with_name("called").write_text("\\n".join(arguments))
if Path(__file__).with_name("refuse").exists():
    sys.exit("Failed to start transient service unit: Unit already exists.")
own, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
log = next(word for word in own if "StandardOutput=append:" in word).partition("append:")[2]
folder = next(word for word in own if word.startswith("--working-directory=")).partition("=")[2]
with open(log, "ab") as output:
    subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, start_new_session=True)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "systemd-run"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(systemd, "_lingers", lambda: True)
    return path


def test_start_and_stop_as_a_unit(new_node: NodeMaker, stand_in: Path) -> None:
    node = new_node("run", listen=("10.10.0.1",))
    state = node.start(launcher="systemd")
    assert state.state == "running"
    called = stand_in.with_name("called").read_text().splitlines()
    assert "--unit=smolcluster-run-a-node1-0" in called
    assert "--collect" in called
    assert "running" not in node.folder.supervisor_log("node1").read_text()
    assert stop_job(node.run_dir, "node1").state == "stopped"
    node.gone()


def test_systemds_own_words_are_shown(new_node: NodeMaker, stand_in: Path) -> None:
    stand_in.with_name("refuse").touch()
    node = new_node("run", listen=("10.10.0.1",))
    with pytest.raises(JobError, match=r"could not start smolcluster-run-a-node1-0: .*Unit already exists"):
        node.start(launcher="systemd")
    assert node.registry.active() is None


def test_unit_that_would_end_with_the_login_is_refused(
    new_node: NodeMaker, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_lingers", lambda: False)
    monkeypatch.setattr(systemd, "user_id", lambda: 1000)
    with pytest.raises(JobError, match="loginctl enable-linger"):
        new_node("run").start(launcher="systemd")


def test_without_systemd_run(new_node: NodeMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(systemd, "user_id", lambda: 0)
    with pytest.raises(JobError, match="there is no systemd-run on this node"):
        new_node("run").start(launcher="systemd")
