"""What makes a node serve its part of a model again when it starts: a systemd unit, a LaunchDaemon, a scheduled task.

Each starts `python -m smolcluster.supervisor NODE_YAML --boot` (booting.py). Beside it lies a note in the work folder,
which says what is served and where the service is, so that whoever may not touch the service can see it, and end it: a
supervisor whose run the note does not name starts nothing.

    linux    a unit of the user's, where their services outlive a login (lingering); else of the system's, as the user
    macos    a LaunchDaemon, as the user: launchd.py says why no agent
    windows  a task with a boot trigger

Making a definition is pure. Neither it nor the note holds a secret: those are files of the run that it names.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePath

from pydantic import Field, ValidationError

from smolcluster.jobs import launchd, schtasks, systemd
from smolcluster.jobs.nodefile import load_node, load_plan, ranks_of
from smolcluster.jobs.types import JobError
from smolcluster.plan.types import NodeConfig, ServePlan
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Kind

BOOT_SCHEMA = 1
_SYSTEM_UNITS = PurePath("/etc/systemd/system")
_NO_SERVICE = "nothing here starts what is to be served when the machine starts"


@dataclass(frozen=True)
class User:
    """Whose a run is."""

    name: str
    number: int
    home: Path


class BootService(Frozen):
    """One node's service. `files`: path to text, for whoever has the right to write there; `link`: a link to the first
    of them that enables it. `reload` tells the manager that files have changed, `end` ends what the service started:
    command lines, empty where there is nothing to say. `system`: an administrator's rights are needed.
    """

    schema_: int = Field(default=BOOT_SCHEMA, alias="schema", serialization_alias="schema")
    run_id: str
    run_dir: str
    node: str
    kind: Kind
    name: str
    system: bool
    files: dict[str, str]
    link: str = ""
    reload: tuple[str, ...] = ()
    end: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The definition's file."""
        return next(iter(self.files))


def here() -> Kind:
    """The kind of this machine. JobError with the reason where it can have no such service."""
    if launchd.present():
        return "macos"
    if schtasks.present():
        return "windows"
    if systemd.present():
        return "linux"
    raise JobError(
        f"{_NO_SERVICE}: it has no systemd, launchd or task scheduler.\n    fix: leave on_boot out, or this machine"
    )


def needs_administrator() -> bool:
    """Whether this machine's service takes rights that this user does not have by themselves. JobError as `here`."""
    kind = here()
    if kind == "linux":
        return not systemd.usable()
    return not (launchd.usable() if kind == "macos" else schtasks.administrator())


def service_for(node_file: Path) -> BootService:
    """What this node would install for a run. ConfigError for a node.yaml or plan that cannot be used."""
    node_file = node_file.absolute()
    config = load_node(node_file)
    plan = load_plan(config)
    ranks_of(config, plan)
    if not isinstance(plan, ServePlan):
        raise JobError(f"{config.run_id} is a training: it goes on with -e resume=true, not at boot")
    kind = here()
    who = User(schtasks.user_here() if kind == "windows" else getpass.getuser(), systemd.user_id(), Path.home())
    return define(kind, config, node_file, who, needs_administrator())


def define(kind: Kind, config: NodeConfig, node_file: PurePath, who: User, administrator: bool) -> BootService:
    """The service of a node of that kind. Pure. `administrator`: somebody with more rights installs it for the user."""
    run_dir = Path(config.run_dir)
    log = RunFolder(run_dir).supervisor_log(config.node)
    command = (config.python, "-m", "smolcluster.supervisor", str(node_file), "--boot")
    # The same node name may stand in inventories of several clusters: their work folders differ.
    parts = ("boot", config.node, hashlib.sha256(str(run_dir.parent).encode()).hexdigest()[:8])
    common = {"run_id": config.run_id, "run_dir": str(run_dir), "node": config.node, "kind": kind}
    about = f"smolcluster serves {config.run_id} on {config.node}"
    if kind == "macos":
        name = launchd.label(*parts)
        return BootService(
            **common,
            name=name,
            system=True,
            files={str(launchd.DAEMONS / f"{name}.plist"): launchd.definition(name, log, run_dir, command, who.name)},
            end=("launchctl", "bootout", f"system/{name}"),
        )
    if kind == "windows":
        name = schtasks.task_name(*parts)
        text = schtasks.definition(about, who.name, run_dir, (*command, "--log", str(log)), at_boot=True)
        return BootService(
            **common,
            name=name,
            system=True,
            files={str(run_dir / "nodes" / config.node / "smolcluster-boot.xml"): text},
            end=("schtasks", "/End", "/TN", name),
        )
    name = systemd.unit_name(*parts)
    # Root needs nobody's lingering: a unit of the system's is the plain one.
    system = administrator or who.number == 0
    folder = _SYSTEM_UNITS if system else who.home / ".config" / "systemd" / "user"
    target = "multi-user.target" if system else "default.target"
    manager = systemd.manager(0 if system else who.number)
    unit = systemd.service(about, log, run_dir, command, who.name if administrator else "", target)
    return BootService(
        **common,
        name=f"{name}.service",
        system=administrator,
        files={str(folder / f"{name}.service"): unit},
        link=str(folder / f"{target}.wants" / f"{name}.service"),
        reload=(*manager, "daemon-reload"),
        end=(*manager, "stop", f"{name}.service"),
    )


def install(service: BootService) -> None:
    """Install the note and its service, for a user with the rights to. OSError and JobError if they have not: by the
    note `remove` finds what there is of it.
    """
    write_note(service)
    if service.kind == "windows":
        schtasks.register(service.name, service.files[service.path], Path(service.path))
    else:
        for path, text in service.files.items():
            write_atomic(Path(path), text)
    if service.link:
        link = Path(service.link)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(service.path)


def remove(service: BootService) -> None:
    """Take away what `install` installed, and nothing else; on Windows also end what it started. OSError, and JobError
    for a task that the scheduler keeps: then the note stays, by which the next call finds it.
    """
    if service.kind == "windows":
        with contextlib.suppress(JobError):  # it does not run, or is gone
            schtasks.end(service.name)
        _delete_task(service.name)
    for path in (service.link, *service.files):
        if path:
            Path(path).unlink(missing_ok=True)
    note_path(Path(service.run_dir).parent, service.node).unlink(missing_ok=True)


def _delete_task(task: str) -> None:
    """JobError in the scheduler's words where it is still there. One that is gone already is none."""
    try:
        schtasks.delete(task)
    except JobError as error:
        if schtasks.known(task):
            fix = f"    fix: in an administrator's terminal of that PC: schtasks /Delete /TN {task} /F"
            raise JobError(f"{error}\n{fix}") from error


def note_path(workdir: Path, node: str) -> Path:
    """Where a work folder says what its node serves at boot."""
    return workdir / ".boot" / f"{node}.json"


def write_note(service: BootService) -> None:
    """Say what is served at boot from now on, in place of what was."""
    path = note_path(Path(service.run_dir).parent, service.node)
    write_atomic(path, service.model_dump_json(by_alias=True, indent=2) + "\n")


def read_note(workdir: Path, node: str) -> BootService | None:
    """What the node serves at boot; None where there is nothing. JobError for a note that is not ours."""
    path = note_path(workdir, node)
    try:
        return BootService.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise JobError(
            f"{path}: not a note of this version of smolcluster ({error.error_count()} problems).\n"
            "    fix: run the playbook with the version that wrote it"
        ) from error


def is_wanted(config: NodeConfig) -> bool:
    """Whether the run is still the one that this node is to serve at boot."""
    note = read_note(Path(config.run_dir).parent, config.node)
    return note is not None and note.run_id == config.run_id
