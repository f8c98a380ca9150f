"""What the modules smolcluster_boot and smolcluster_runs do on a node. Where Ansible runs no Python (Windows) their
twins in PowerShell call `python -m smolcluster job upkeep` instead, with the same options and the same answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from smolcluster.jobs import bootservice
from smolcluster.jobs.bootservice import BootService
from smolcluster.jobs.housekeeping import prune
from smolcluster.spec.base import Frozen


class Upkeep(Frozen):
    """One action. Which fields it needs:

    asked                  nothing: what serving at boot takes here
    found, forgotten       workdir, node: the service that is noted; take the note away
    planned, noted         node_file: the service for a node.yaml; note that it is there
    installed, removed     the same, all of it: where no administrator does what takes one (Windows)
    pruned                 workdir, keep, caches: delete old runs
    """

    state: Literal["asked", "found", "forgotten", "planned", "noted", "installed", "removed", "pruned"] = "pruned"
    workdir: str = ""
    node: str = ""
    node_file: str = ""
    keep: int = 0
    caches: bool = False


def act(action: Upkeep) -> dict[str, object]:
    """Do it; `changed` says whether anything was. SmolError and OSError tell why it could not be."""
    workdir = Path(action.workdir).expanduser().absolute()
    if action.state == "asked":
        return {"changed": False, "administrator": bootservice.needs_administrator()}
    if action.state == "pruned":
        freed = prune(workdir, action.keep, action.caches)
        return {"changed": bool(freed.runs or freed.reports or freed.caches), "freed": freed.plain()}
    if action.state in ("found", "forgotten", "removed"):
        return _of_note(action, bootservice.read_note(workdir, action.node), workdir)
    service = bootservice.service_for(Path(action.node_file))
    if action.state == "planned":
        return _told(service, changed=False)
    before = bootservice.read_note(Path(service.run_dir).parent, service.node)
    if action.state == "installed":
        bootservice.install(service)
    elif before != service:
        bootservice.write_note(service)
    return _told(service, changed=before != service)


def _of_note(action: Upkeep, service: BootService | None, workdir: Path) -> dict[str, object]:
    if action.state == "found" or service is None:
        return _told(service, changed=False)
    if action.state == "removed":
        bootservice.remove(service)
    else:
        bootservice.note_path(workdir, action.node).unlink(missing_ok=True)
    return _told(service, changed=True)


def _told(service: BootService | None, changed: bool) -> dict[str, object]:
    return {"changed": changed, "boot": None if service is None else service.model_dump(mode="json", by_alias=True)}
