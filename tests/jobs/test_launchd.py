"""The launchd launcher: what it asks a Mac for, with a stand-in for launchctl."""

from __future__ import annotations

import plistlib
from pathlib import Path

import pytest

from smolcluster.jobs import launch, launchd
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobError

from .conftest import NodeMaker
from .node import make_plan
from .stand_ins import StandIns, put_first

GOLDEN = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
\t<key>Label</key>
\t<string>org.smolcluster.run-1.mini1.0</string>
\t<key>UserName</key>
\t<string>ann</string>
\t<key>ProgramArguments</key>
\t<array>
\t\t<string>/opt/my py/bin/python</string>
\t\t<string>-m</string>
\t\t<string>smolcluster.supervisor</string>
\t\t<string>/Users/a &amp; &lt;b&gt;/run-1/nodes/mini1/node.yaml</string>
\t</array>
\t<key>WorkingDirectory</key>
\t<string>/Users/a &amp; &lt;b&gt;/run-1</string>
\t<key>StandardOutPath</key>
\t<string>/Users/a &amp; &lt;b&gt;/run-1/log.txt</string>
\t<key>StandardErrorPath</key>
\t<string>/Users/a &amp; &lt;b&gt;/run-1/log.txt</string>
\t<key>RunAtLoad</key>
\t<true/>
\t<key>KeepAlive</key>
\t<false/>
\t<key>ProcessType</key>
\t<string>Interactive</string>
\t<key>ExitTimeOut</key>
\t<integer>15</integer>
</dict>
</plist>
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    monkeypatch.setattr(launchd, "_user_id", lambda: 0)
    return put_first(tmp_path / "bin", monkeypatch)


def test_the_definition_word_for_word() -> None:
    folder = Path("/Users/a & <b>/run-1")
    command = ["/opt/my py/bin/python", "-m", "smolcluster.supervisor", f"{folder}/nodes/mini1/node.yaml"]
    name = launchd.label("run-1", "mini1", 0)
    text = launchd.definition(name, folder / "log.txt", folder, command, "ann")
    assert text == GOLDEN
    assert plistlib.loads(text.encode())["ProgramArguments"] == command


def test_a_label_launchd_accepts() -> None:
    assert launchd.label("my run", "pi/5", 3) == "org.smolcluster.my-run.pi-5.3"


def test_a_run_is_loaded_into_the_systems_domain_under_its_owners_name(
    new_node: NodeMaker, stand_ins: StandIns
) -> None:
    node = new_node("run", listen=("10.10.0.1",))
    assert node.start(launcher="launchd").state == "running"
    plist = node.folder.node("node1") / "smolcluster.plist"
    assert stand_ins.calls() == [
        ["launchctl", "bootout", "system/org.smolcluster.run-a.node1.0"],
        ["launchctl", "bootstrap", "system", str(plist)],
    ]
    job = plistlib.loads(plist.read_bytes())
    assert job["UserName"] == node.run_dir.owner()
    assert plist.stat().st_mode & 0o022 == 0
    assert stop_job(node.run_dir, "node1").state == "stopped"
    node.gone()


def test_launchctls_own_words_are_shown(new_node: NodeMaker, stand_ins: StandIns) -> None:
    stand_ins.refuse("launchctl", "bootstrap", "Bootstrap failed: 5: Input/output error")
    node = new_node("run", listen=("10.10.0.1",))
    with pytest.raises(JobError, match=r"could not start org\.smolcluster\.run-a\.node1\.0: Bootstrap failed: 5"):
        node.start(launcher="launchd")
    assert node.registry.active() is None


def test_a_users_agent_is_refused_with_the_reason(new_node: NodeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchd, "_user_id", lambda: 501)
    with pytest.raises(JobError, match=r"for root alone.*\n.*--launcher child"):
        new_node("run").start(launcher="launchd")


def test_a_macs_runs_are_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as root: what SSH starts is exempt from Local Network privacy and lives on without its session."""
    monkeypatch.setattr(launch.systemd, "present", lambda: False)
    monkeypatch.setattr(launchd, "present", lambda: True)
    ranks = make_plan("mini1", ("run",), listen=("10.10.0.1",)).ranks
    assert launch._choose("auto", ranks) == "child"
