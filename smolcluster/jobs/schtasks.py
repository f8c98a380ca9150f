"""Starting a supervisor as a scheduled task of Windows, so that it outlives the SSH session that started it.

Windows' sshd puts all that a session starts into a job object and ends it with the session; a task is started by the
scheduler, outside of it. It runs hidden, without a time limit, also on battery, and whether or not its user is logged
on: S4U, which stores no password and in return cannot log in to other Windows machines, which we do not need.

The task goes when its job ends: the supervisor deletes it last. Where it may not (an administrator registered the task,
and it runs with fewer rights) the next start of a run on that node does. Written to Microsoft's documentation and tried
with stand-ins only: there is no Windows here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from smolcluster.jobs.service_call import call
from smolcluster.jobs.types import JobError
from smolcluster.jobs.winname import account
from smolcluster.runtime.runfolder import write_atomic

NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
# The scheduler's folder of ours.
FOLDER = "\\smolcluster\\"
_INSTEAD = "use --launcher child"
# What schtasks reads a definition in; no other is reliable.
ENCODING = "utf-16"
# Below normal processes a little: a PC that is somebody's desk stays usable. 7, a task's default, also slows the disk.
_PRIORITY = "5"


def present() -> bool:
    """Whether this machine has Windows' task scheduler."""
    return sys.platform == "win32" and shutil.which("schtasks") is not None


def usable() -> bool:
    """Whether a task would outlive its starter's session: wherever there are tasks."""
    return present()


def administrator() -> bool:
    """Whether this process has an administrator's rights, without which no task may start with the machine."""
    if sys.platform != "win32":
        return False
    import ctypes

    return bool(ctypes.windll.shell32.IsUserAnAdmin())


def task_name(*parts: object) -> str:
    """A task's full name that the scheduler accepts."""
    return FOLDER + re.sub(r"[^A-Za-z0-9._-]", "-", "-".join(map(str, parts)))


def definition(about: str, user: str, folder: PurePath, supervisor: Sequence[str], at_boot: bool = False) -> str:
    """The task's XML: started on demand, or `at_boot`, as `user`; empty: not said. Pure."""
    ElementTree.register_namespace("", NAMESPACE)
    task = ElementTree.Element(_tag("Task"), version="1.2")
    _add(_add(task, "RegistrationInfo"), "Description", about)
    triggers = _add(task, "Triggers")
    if at_boot:
        _add(_add(triggers, "BootTrigger"), "Enabled", "true")
    principal = _add(_add(task, "Principals"), "Principal")
    principal.set("id", "Author")
    if user:
        _add(principal, "UserId", user)
    _add(principal, "LogonType", "S4U")
    _add(principal, "RunLevel", "LeastPrivilege")
    settings = _add(task, "Settings")
    for name, value in (
        ("MultipleInstancesPolicy", "IgnoreNew"),
        ("DisallowStartIfOnBatteries", "false"),
        ("StopIfGoingOnBatteries", "false"),
        # Its ranks are ended in order by the supervisor; the scheduler's own way is to kill.
        ("AllowHardTerminate", "true"),
        ("StartWhenAvailable", "true"),
        ("Hidden", "true"),
        ("ExecutionTimeLimit", "PT0S"),
        ("Priority", _PRIORITY),
    ):
        _add(settings, name, value)
    actions = _add(task, "Actions")
    actions.set("Context", "Author")
    action = _add(actions, "Exec")
    _add(action, "Command", supervisor[0])
    _add(action, "Arguments", subprocess.list2cmdline(supervisor[1:]))
    _add(action, "WorkingDirectory", str(folder))
    ElementTree.indent(task)
    return f'<?xml version="1.0" encoding="UTF-16"?>\n{ElementTree.tostring(task, encoding="unicode")}\n'


def commands(name: str, xml: Path) -> tuple[list[str], list[str]]:
    """What registers the task (in place of one of that name), and what runs it. Pure."""
    return ["schtasks", "/Create", "/TN", name, "/XML", str(xml), "/F"], ["schtasks", "/Run", "/TN", name]


def start(name: str, about: str, xml: Path, folder: Path, supervisor: Sequence[str]) -> None:
    """Register and run the task, whose definition is written to `xml`. JobError with the scheduler's own words."""
    register(name, definition(about, user_here(), folder, (*supervisor, "--task", name)), xml)
    call(commands(name, xml)[1], "schtasks", f"could not start {name}", _INSTEAD)


def register(name: str, text: str, xml: Path) -> None:
    """Make the task known to the scheduler. JobError with its own words if it refuses."""
    write_atomic(xml, text.encode(ENCODING))
    call(commands(name, xml)[0], "schtasks", f"could not register {name}", _INSTEAD)


def delete(name: str) -> None:
    """Take a task away; a program that it started runs on. JobError if there is none."""
    call(["schtasks", "/Delete", "/TN", name, "/F"], "schtasks", f"could not delete {name}", _INSTEAD)


def known(name: str) -> bool:
    """Whether the scheduler shows this user such a task."""
    try:
        call(["schtasks", "/Query", "/TN", name], "schtasks", f"has no {name}", _INSTEAD)
    except JobError:
        return False
    return True


def forget(definitions: Iterable[Path]) -> None:
    """Delete the tasks that a supervisor could not, of jobs that have ended, and their definitions' files with them:
    these say that a task may still be there. What the scheduler refuses waits for somebody with more rights.
    """
    for xml in definitions:
        try:
            name = _name_in(xml)
        except (OSError, ValueError, ElementTree.ParseError):  # gone meanwhile, or none of ours
            continue
        try:
            if known(name):
                delete(name)
            xml.unlink(missing_ok=True)
        except (JobError, OSError):
            return


def _name_in(xml: Path) -> str:
    """The task that a definition of `start` made: the supervisor is told it last. ValueError if there is none."""
    task = ElementTree.fromstring(xml.read_bytes())  # noqa: S314 - what `register` wrote into our own run folder
    told = task.findtext(f".//{_tag('Arguments')}") or ""
    name = told.rpartition(" --task ")[2]
    if name != task_name(name.removeprefix(FOLDER)):
        raise ValueError(f"{xml}: no task of ours")
    return name


def end(name: str) -> None:
    """End what the task started. JobError if there is no such task."""
    call(["schtasks", "/End", "/TN", name], "schtasks", f"could not end {name}", _INSTEAD)


def user_here() -> str:
    """Who we are, as the scheduler wants it: MACHINE\\user. JobError if Windows does not say."""
    return account()


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: ElementTree.Element, name: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, _tag(name))
    child.text = text
    return child
