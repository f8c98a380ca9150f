"""The scheduled-task launcher: what it asks Windows for, with a stand-in for schtasks."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from smolcluster.jobs import launch, schtasks
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobError

from .conftest import NodeMaker
from .node import make_plan, until
from .stand_ins import StandIns, put_first

GOLDEN = r"""<?xml version="1.0" encoding="UTF-16"?>
<Task xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task" version="1.2">
  <RegistrationInfo>
    <Description>run-1 on win &amp; co</Description>
  </RegistrationInfo>
  <Triggers />
  <Principals>
    <Principal id="Author">
      <UserId>desk\ann</UserId>
      <LogonType>S4U</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <Hidden>true</Hidden>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>5</Priority>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>C:\my py\python.exe</Command>
      <Arguments>-m smolcluster.supervisor "C:\Users\a b\node.yaml"</Arguments>
      <WorkingDirectory>C:\Users\a b</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"""
COMMAND = ("C:\\my py\\python.exe", "-m", "smolcluster.supervisor", "C:\\Users\\a b\\node.yaml")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    return put_first(tmp_path / "bin", monkeypatch)


def test_the_definition_word_for_word() -> None:
    text = schtasks.definition("run-1 on win & co", "desk\\ann", Path("C:\\Users\\a b"), COMMAND)
    assert text == GOLDEN
    ElementTree.fromstring(text.encode("utf-16"))


def test_at_boot_it_has_a_trigger_and_nothing_else_is_different() -> None:
    here = (Path("C:\\Users\\a b"), COMMAND)
    at_boot = schtasks.definition("run-1 on win & co", "desk\\ann", *here, at_boot=True)
    trigger = "<Triggers>\n    <BootTrigger>\n      <Enabled>true</Enabled>\n    </BootTrigger>\n  </Triggers>"
    assert at_boot == GOLDEN.replace("<Triggers />", trigger)


def test_a_task_is_registered_run_and_deleted_when_its_job_has_ended(new_node: NodeMaker, stand_ins: StandIns) -> None:
    node = new_node("run", listen=("10.10.0.1",))
    assert node.start(launcher="schtasks").state == "running"
    xml, name = node.folder.node("node1") / "smolcluster-task.xml", "\\smolcluster\\run-a-node1-0"
    assert stand_ins.calls() == [
        ["whoami"],
        ["schtasks", "/Create", "/TN", name, "/XML", str(xml), "/F"],
        ["schtasks", "/Run", "/TN", name],
    ]
    assert stand_ins.tasks() == ["run-a-node1-0"]
    told = ElementTree.fromstring(xml.read_bytes()).findtext(f".//{{{schtasks.NAMESPACE}}}Arguments")
    log = node.folder.supervisor_log("node1")
    assert told is not None
    assert told.endswith(subprocess.list2cmdline(["--log", str(log), "--task", name]))
    # A task has no output of its own: the supervisor writes its log itself.
    until(lambda: "rank 0 started" in log.read_text(), "the supervisor's log")
    line = next(line for line in log.read_text().splitlines() if "rank 0 started" in line)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO rank 0 started, ", line), "in UTC, as ranks' logs are"
    assert stop_job(node.run_dir, "node1").state == "stopped"
    node.gone()
    until(lambda: stand_ins.tasks() == [], "the task is deleted")
    assert stand_ins.calls()[3:] == [["schtasks", "/Delete", "/TN", name, "/F"]]


def test_the_schedulers_own_words_are_shown(new_node: NodeMaker, stand_ins: StandIns) -> None:
    stand_ins.refuse("schtasks", "/Create", "ERROR: Access is denied.")
    node = new_node("run", listen=("10.10.0.1",))
    with pytest.raises(JobError, match=r"could not register \\smolcluster\\run-a-node1-0: ERROR: Access is denied"):
        node.start(launcher="schtasks")
    assert node.registry.active() is None


def test_auto_is_a_task_where_others_dial_in_and_a_child_on_the_local_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schtasks, "present", lambda: True)
    assert launch._choose("auto", make_plan("win", ("run",), listen=("10.10.0.1",)).ranks) == "schtasks"
    assert launch._choose("auto", make_plan("win", ("run",)).ranks) == "child"
