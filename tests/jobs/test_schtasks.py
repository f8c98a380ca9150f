"""The scheduled-task launcher: what it asks Windows for, with a stand-in for schtasks."""

from __future__ import annotations

import codecs
import ctypes
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from smolcluster.jobs import launch, schtasks
from smolcluster.jobs.service_call import call
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobError
from smolcluster.jobs.winname import account

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
        ["schtasks", "/Create", "/TN", name, "/XML", str(xml), "/F"],
        ["schtasks", "/Run", "/TN", name],
    ]
    assert stand_ins.tasks() == ["run-a-node1-0"]
    task = ElementTree.fromstring(xml.read_bytes())
    assert task.findtext(f".//{{{schtasks.NAMESPACE}}}UserId") == "desk\\ann"
    told = task.findtext(f".//{{{schtasks.NAMESPACE}}}Arguments")
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
    assert stand_ins.calls()[2:] == [["schtasks", "/Delete", "/TN", name, "/F"]]


def test_a_task_that_its_supervisor_may_not_delete_goes_with_the_next_start(
    new_node: NodeMaker, stand_ins: StandIns
) -> None:
    (stand_ins.folder / "boot-node1-1.task").write_text("")
    stand_ins.refuse("schtasks", "/Delete", "ERROR: Access is denied.")
    old, new = (new_node("run", run_id=run_id, listen=("10.10.0.1",)) for run_id in ("run-a", "run-b"))
    kept = old.folder.node("node1") / "smolcluster-task.xml"
    for node in (old, new):
        assert node.start(launcher="schtasks").state == "running"
        assert stop_job(node.run_dir, "node1").state == "stopped"
        node.gone()
    # Refused again: nothing is forgotten, and the run is started all the same.
    assert kept.exists()
    assert stand_ins.tasks() == ["boot-node1-1", "run-a-node1-0", "run-b-node1-0"]

    (stand_ins.folder / "refuse-schtasks-Delete").unlink()
    before = len(stand_ins.calls())
    last = new_node("run", run_id="run-c", listen=("10.10.0.1",))
    (last.workdir / "broken" / "nodes" / "node1").mkdir(parents=True)
    (last.workdir / "broken" / "nodes" / "node1" / kept.name).write_text("no definition")
    assert last.start(launcher="schtasks").state == "running"
    assert [(words[1], words[3]) for words in stand_ins.calls()[before:-2]] == [
        (verb, f"\\smolcluster\\{run}-node1-0") for run in ("run-a", "run-b") for verb in ("/Query", "/Delete")
    ]
    assert stand_ins.tasks() == ["boot-node1-1", "run-c-node1-0"]
    assert not kept.exists()
    assert stop_job(last.run_dir, "node1").state == "stopped"
    last.gone()


class FakeSecur32:
    """secur32.dll, as far as it is asked who we are."""

    def __init__(self, name: str) -> None:
        def GetUserNameExW(kind: int, text: Any, length: Any) -> int:  # Windows' own name
            assert (kind, length._obj.value) == (2, ctypes.sizeof(text) // ctypes.sizeof(ctypes.c_wchar))
            text.value = name
            return int(bool(name))

        self.GetUserNameExW = GetUserNameExW


def test_an_accounts_name_comes_through_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDOMAIN", "büro")
    monkeypatch.setenv("USERNAME", "Łukasz")
    assert account(FakeSecur32("PC-Größe\\Jürgen")) == "PC-Größe\\Jürgen"
    assert account(FakeSecur32("")) == "büro\\Łukasz"
    monkeypatch.delenv("USERNAME")
    with pytest.raises(JobError, match="did not say who we are"):
        account(FakeSecur32(""))


def test_the_schedulers_words_are_read_in_the_consoles_code_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def oem(name: str) -> codecs.CodecInfo | None:
        return codecs.lookup("cp850") if name == "oem" else None

    codecs.register(oem)
    monkeypatch.setattr(sys, "platform", "win32")
    refused = [sys.executable, "-c", "import sys; sys.stderr.buffer.write(b'Zugriff f\\x81r J\\x81rgen'); sys.exit(1)"]
    try:
        with pytest.raises(JobError, match="schtasks could not start: Zugriff für Jürgen"):
            call(refused, "schtasks", "could not start", "use another way")
    finally:
        monkeypatch.undo()
        codecs.unregister(oem)


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
