"""What each kind of machine is asked to start when it starts, and how it is taken away again."""

from __future__ import annotations

import configparser
import plistlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from smolcluster.jobs import bootservice, schtasks, systemd
from smolcluster.jobs.bootservice import BootService, User, define
from smolcluster.jobs.nodefile import load_node
from smolcluster.jobs.types import JobError

from .conftest import NodeMaker
from .stand_ins import put_first

UNIT = """\
# Written by smolcluster's inference.yml -e on_boot=true; stop.yml takes it away.
[Unit]
Description=smolcluster serves run-a on node1
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
User=ann
WorkingDirectory=/srv/100%% mine
ExecStart="/opt/my py/bin/python" -m smolcluster.supervisor "/srv/100%% mine/node.yaml" --boot
StandardOutput=append:/srv/100%% mine/log.txt
StandardError=append:/srv/100%% mine/log.txt
# The supervisor itself goes on after a failure of its ranks; it ends only when it was killed, or has nothing to serve.
Restart=on-abnormal
RestartSec=10
KillMode=mixed
TimeoutStopSec=15

[Install]
WantedBy=multi-user.target
"""
ANN = User("ann", 1000, Path("/home/ann"))
SECRET = "deadbeef" * 8


def defined(new_node: NodeMaker, kind: str, who: User = ANN, administrator: bool = True) -> BootService:
    node = new_node("run", "run", serves=True)
    (node.run_dir / "secret").write_text(SECRET)
    return define(kind, load_node(node.file), node.file, who, administrator)  # type: ignore[arg-type]


def test_the_unit_word_for_word() -> None:
    folder = Path("/srv/100% mine")
    command = ("/opt/my py/bin/python", "-m", "smolcluster.supervisor", f"{folder}/node.yaml", "--boot")
    about = "smolcluster serves run-a on node1"
    text = systemd.service(about, folder / "log.txt", folder, command, "ann", "multi-user.target")
    assert text == UNIT
    parser = configparser.RawConfigParser(strict=True)
    parser.read_string(text)
    assert parser.sections() == ["Unit", "Service", "Install"]


def test_a_linux_user_who_lingers_has_a_unit_of_their_own(new_node: NodeMaker) -> None:
    service = defined(new_node, "linux", administrator=False)
    assert not service.system
    assert service.path == f"/home/ann/.config/systemd/user/{service.name}"
    assert service.link == f"/home/ann/.config/systemd/user/default.target.wants/{service.name}"
    assert "User=" not in service.files[service.path]
    assert "WantedBy=default.target" in service.files[service.path]
    user = ("env", "XDG_RUNTIME_DIR=/run/user/1000", "systemctl", "--user")
    assert service.reload == (*user, "daemon-reload")
    assert service.end == (*user, "stop", service.name)


def test_for_others_an_administrator_installs_one_of_the_systems(new_node: NodeMaker) -> None:
    service = defined(new_node, "linux")
    assert service.system
    assert service.path == f"/etc/systemd/system/{service.name}"
    assert service.link == f"/etc/systemd/system/multi-user.target.wants/{service.name}"
    assert "User=ann\n" in service.files[service.path]
    assert service.end == ("systemctl", "stop", service.name)


def test_root_needs_nobody_else(new_node: NodeMaker) -> None:
    service = defined(new_node, "linux", User("root", 0, Path("/root")), administrator=False)
    assert not service.system
    assert service.path.startswith("/etc/systemd/system/smolcluster-boot-node1-")
    assert "User=" not in service.files[service.path]


def test_a_mac_has_a_daemon_under_the_users_name(new_node: NodeMaker) -> None:
    service = defined(new_node, "macos")
    assert service.path == f"/Library/LaunchDaemons/{service.name}.plist"
    job = plistlib.loads(service.files[service.path].encode())
    assert (job["Label"], job["UserName"], job["RunAtLoad"], job["KeepAlive"]) == (service.name, "ann", True, False)
    assert job["ProgramArguments"][1:3] == ["-m", "smolcluster.supervisor"]
    assert job["ProgramArguments"][-1] == "--boot"
    assert (service.link, service.reload) == ("", ())
    assert service.end == ("launchctl", "bootout", f"system/{service.name}")


def test_windows_has_a_task_with_a_boot_trigger(new_node: NodeMaker) -> None:
    service = defined(new_node, "windows")
    task = ElementTree.fromstring(service.files[service.path])
    assert task.find(f".//{{{schtasks.NAMESPACE}}}BootTrigger") is not None
    arguments = task.findtext(f".//{{{schtasks.NAMESPACE}}}Arguments") or ""
    assert " --boot --log " in arguments
    assert "--task" not in arguments, "it stays when a job has ended"


@pytest.mark.parametrize("kind", ["linux", "macos", "windows"])
def test_no_definition_holds_a_secret(new_node: NodeMaker, kind: str) -> None:
    service = defined(new_node, kind)
    assert SECRET not in service.model_dump_json()
    assert "secret" not in service.files[service.path]


def test_the_name_is_another_in_another_work_folder(tmp_path: Path, new_node: NodeMaker) -> None:
    one = defined(new_node, "linux")
    config = load_node(new_node("run", "run", serves=True, run_id="run-b").file)
    other = config.model_copy(update={"run_dir": str(tmp_path / "elsewhere" / "run-a")})
    assert define("linux", config, Path("n"), ANN, False).name == one.name, "the next run replaces it"
    assert define("linux", other, Path("n"), ANN, False).name != one.name


def test_installed_noted_and_taken_away_exactly(new_node: NodeMaker, tmp_path: Path) -> None:
    home = tmp_path / "home"
    units = home / ".config" / "systemd" / "user"
    (units / "default.target.wants").mkdir(parents=True)
    (units / "mine.service").write_text("somebody's own")
    service = defined(new_node, "linux", User("ann", 1000, home), administrator=False)
    bootservice.install(service)
    bootservice.install(service)
    assert Path(service.link).read_text() == service.files[service.path]
    workdir = Path(service.run_dir).parent
    assert bootservice.read_note(workdir, "node1") == service
    bootservice.remove(service)
    assert [path.name for path in units.rglob("*") if path.is_file()] == ["mine.service"]
    assert bootservice.read_note(workdir, "node1") is None
    bootservice.remove(service)


def test_a_task_is_registered_and_deleted(new_node: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins = put_first(tmp_path / "bin", monkeypatch)
    service = defined(new_node, "windows")
    bootservice.install(service)
    assert stand_ins.calls() == [["schtasks", "/Create", "/TN", service.name, "/XML", service.path, "/F"]]
    ElementTree.fromstring(Path(service.path).read_bytes())
    bootservice.remove(service)
    assert stand_ins.tasks() == []
    assert not Path(service.path).exists()
    bootservice.remove(service)


def test_a_task_that_the_scheduler_keeps_is_told(
    new_node: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins = put_first(tmp_path / "bin", monkeypatch)
    service = defined(new_node, "windows")
    bootservice.install(service)
    stand_ins.refuse("schtasks", "/Delete", "ERROR: Access is denied.")
    with pytest.raises(JobError) as caught:
        bootservice.remove(service)
    assert "ERROR: Access is denied." in str(caught.value)
    assert f"fix: in an administrator's terminal of that PC: schtasks /Delete /TN {service.name} /F" in str(
        caught.value
    )
    # What is there can be found again.
    assert len(stand_ins.tasks()) == 1
    assert Path(service.path).exists()
    assert bootservice.read_note(Path(service.run_dir).parent, service.node) == service


def test_a_machine_without_a_service_manager_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "present", lambda: False)
    with pytest.raises(JobError, match="no systemd, launchd or task scheduler"):
        bootservice.needs_administrator()


def test_a_training_is_refused(new_node: NodeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "present", lambda: True)
    with pytest.raises(JobError, match="run-a is a training"):
        bootservice.service_for(new_node("run").file)


def test_a_note_of_another_version_is_told(tmp_path: Path) -> None:
    path = bootservice.note_path(tmp_path, "node1")
    path.parent.mkdir()
    path.write_text('{"schema": 1}')
    with pytest.raises(JobError, match="not a note of this version"):
        bootservice.read_note(tmp_path, "node1")
