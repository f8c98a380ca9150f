"""inference.yml -e on_boot=true on this machine: what is said where it cannot be, and that nothing was started then."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from ansible_lab import Cluster, gone_within
from ansible_served import PORTS, PROMPT, Tiny, ask, booted, ready

from smolcluster.jobs import bootservice
from smolcluster.jobs.bootservice import BootService, read_note, write_note
from smolcluster.runtime.runfolder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine: it can")
def test_without_a_service_manager_it_is_refused_before_anything_is_started(local: Cluster, tiny: Tiny) -> None:
    refused = local.play("inference", f"model={tiny.folder}", "on_boot=true", override=PORTS)
    assert refused.code == 2, refused.text
    assert "on_boot: 3 problems; nothing was started." in refused.text
    assert "node1: nothing here starts what is to be served when the machine starts" in refused.text
    assert not local.runs.exists() or not list(local.runs.glob("*/nodes"))
    assert not local.processes()


def test_everybody_dies_and_the_services_alone_bring_it_back(local: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    """As after a power cut: no process, stale files, services that begin one after the other, the head's node last."""
    served = local.play("inference", f"model={tiny.folder}", "detach=true", override=PORTS)
    assert served.code == 0, served.text
    folder = RunFolder(local.runs / served.run_id)
    nodes = sorted(path.name for path in (folder.path / "nodes").iterdir())
    for process in local.processes():
        process.kill()
    gone_within(local, 60)
    with booted(folder, nodes[::-1], tmp_path) as started:
        assert ask(ready(folder, since=time.time()), PROMPT) == tiny.answer
        stopped = local.play("stop")
        assert stopped.code == 0, stopped.text
        for node in nodes:
            assert f"{node}: stopped {served.run_id}" in stopped.text
            assert f"{node}: {served.run_id} is not served any more when the machine starts" in stopped.text
        assert [process.wait(60) for process in started] == [0] * len(nodes)
    assert not local.processes()


def test_training_does_not_know_it(local: Cluster) -> None:
    refused = local.play("train", "on_boot=true")
    assert refused.code == 2
    assert "on_boot" in refused.text
    assert not local.processes()


def test_status_shows_a_service_and_stop_takes_it_away(local: Cluster, tmp_path: Path) -> None:
    """As far as that goes without a service manager: note and files; another run's stay."""
    units = tmp_path / "units"
    files = {}
    for node, run_id in (("node1", "run-1"), ("node2", "run-2")):
        unit, link = units / f"{node}.service", units / "wants" / f"{node}.service"
        link.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text("")
        link.symlink_to(unit)
        write_note(
            BootService(
                run_id=run_id, run_dir=str(local.runs / run_id), node=node, kind="linux", name=unit.name,
                system=False, files={str(unit): ""}, link=str(link), end=(sys.executable, "-c", ""),
            )
        )  # fmt: skip
        files[node] = (unit, link)
    status = local.play("status")
    assert status.code == 0, status.text
    assert "served again when the machine starts" in status.text
    stopped = local.play("stop", "run_id=run-1")
    assert stopped.code == 0, stopped.text
    assert "node1: run-1 is not served any more when the machine starts" in stopped.text
    assert "node2" not in stopped.text.partition("run-1 is not")[2].partition("PLAY RECAP")[0]
    assert [path.exists() for path in files["node1"]] == [False, False]
    assert [path.exists() for path in files["node2"]] == [True, True]
    assert read_note(local.runs, "node1") is None
    assert json.loads(bootservice.note_path(local.runs, "node2").read_text())["run_id"] == "run-2"
