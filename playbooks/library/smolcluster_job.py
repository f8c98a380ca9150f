#!/usr/bin/python
"""Ansible module: the job of one node and run, through smolcluster.jobs on that node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    import smolcluster
    from smolcluster.errors import SmolError
    from smolcluster.jobs import bootservice, list_runs, poll_job, start_job, stop_job
    from smolcluster.jobs.housekeeping import prune
    from smolcluster.jobs.served import served_here
    from smolcluster.runtime.runfolder import write_atomic

    MISSING = ""
except ImportError as error:
    MISSING = str(error)

DOCUMENTATION = r"""
module: smolcluster_job
short_description: Start, stop and look at the job of one node
description:
  - C(checked) says whether this machine can take part - its smolcluster, its work folder, the run that holds it.
  - C(started) starts the supervisor of a node.yaml; C(stopped) ends a run's job here; C(polled) looks at it once;
    C(listed) gives every run this work folder knows.
  - C(bootable) says what serving at boot takes here; C(boot_planned) gives the service that does it for a node.yaml,
    C(boot_noted) writes down that it is there, C(boot_forgotten) that none is any more. The role boot_service does
    what takes an administrator.
  - C(pruned) deletes old runs of a work folder that nobody needs.
options:
  state:
    type: str
    required: true
    choices: [checked, started, stopped, polled, listed, bootable, boot_planned, boot_noted, boot_forgotten,
      pruned]
    description: What to do.
  workdir:
    type: str
    description: "The folder of this machine's runs (checked, listed, boot_forgotten); may start with ~."
  node: {type: str, description: "This machine's name in the inventory."}
  node_file: {type: path, description: The node.yaml to start.}
  node_config: {type: str, description: What is written to C(node_file) first; without it the file is there.}
  run_dir: {type: path, description: The run's folder on this machine (stopped, polled).}
  keep: {type: int, default: 0, description: How many of the newest runs are kept (pruned); 0 for all.}
  caches: {type: bool, default: false, description: Whether data and weights go too that no run left uses (pruned).}
  replace: {type: bool, default: false, description: Stop an active run first.}
  launcher:
    type: str
    default: auto
    choices: [auto, child, systemd, launchd, schtasks]
    description: How a supervisor is started.
author: smolcluster
"""

EXAMPLES = r"""
- smolcluster_job: {state: checked, node: pi5, workdir: ~/.smolcluster/runs}
- smolcluster_job: {state: started, node_file: /home/pi/.smolcluster/runs/run-1/nodes/pi5/node.yaml}
- smolcluster_job: {state: stopped, node: pi5, run_dir: ~/.smolcluster/runs/run-1}
"""

RETURN = r"""
job: {description: The job's state., type: dict, returned: started, stopped, polled}
jobs: {description: Every run this work folder knows., type: list, returned: checked, listed}
boot:
  description: The service that starts what this node serves, when the machine starts; null where there is none.
  type: dict
  returned: checked, listed, boot_planned, boot_noted
freed: {description: "Runs, caches and bytes that were deleted, old runs kept.", type: dict, returned: pruned}
administrator:
  description: Whether that service takes an administrator's rights.
  type: bool
  returned: bootable
served: {description: What this node does for a served model; empty for a training., type: str, returned: polled}
workdir: {description: The work folder, absolute., type: str, returned: checked, listed}
version: {description: The version of smolcluster there., type: str, returned: checked}
python: {description: The interpreter, absolute., type: str, returned: checked}
"""

STATES = [
    "checked",
    "started",
    "stopped",
    "polled",
    "listed",
    "bootable",
    "boot_planned",
    "boot_noted",
    "boot_forgotten",
    "pruned",
]
LAUNCHERS = ["auto", "child", "systemd", "launchd", "schtasks"]
_ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": STATES},
    "workdir": {"type": "str"},
    "node": {"type": "str"},
    "node_file": {"type": "path"},
    "node_config": {"type": "str"},
    "run_dir": {"type": "path"},
    "keep": {"type": "int", "default": 0},
    "caches": {"type": "bool", "default": False},
    "replace": {"type": "bool", "default": False},
    "launcher": {"type": "str", "default": "auto", "choices": LAUNCHERS},
}
_NEEDS = [
    ("state", "checked", ["workdir", "node"]),
    ("state", "listed", ["workdir", "node"]),
    ("state", "started", ["node_file"]),
    ("state", "boot_planned", ["node_file"]),
    ("state", "boot_noted", ["node_file"]),
    ("state", "pruned", ["workdir"]),
    ("state", "boot_forgotten", ["workdir", "node"]),
    ("state", "stopped", ["run_dir", "node"]),
    ("state", "polled", ["run_dir", "node"]),
]


def jobs_here(options: dict[str, Any]) -> dict[str, Any]:
    """Every run that the work folder knows of this node; the active ones are marked."""
    workdir = Path(options["workdir"]).expanduser().absolute()
    entries = [entry.model_dump(mode="json", by_alias=True) for entry in list_runs(workdir)]
    mine = [entry for entry in entries if entry["job"]["node"] == options["node"]]
    boot = bootservice.read_note(workdir, options["node"])
    return {"workdir": str(workdir), "jobs": mine, "boot": _plain(boot) if boot else None}


def act_on_boot(options: dict[str, Any]) -> dict[str, Any]:
    """Do what one of the states of a service asks. SmolError and OSError are the caller's."""
    state = options["state"]
    if state == "bootable":
        return {"changed": False, "administrator": bootservice.needs_administrator()}
    if state == "boot_forgotten":
        path = bootservice.note_path(Path(options["workdir"]).expanduser().absolute(), options["node"])
        there = path.exists()
        path.unlink(missing_ok=True)
        return {"changed": there}
    service = bootservice.service_for(Path(options["node_file"]))
    if state == "boot_planned":
        return {"changed": False, "boot": _plain(service)}
    before = bootservice.read_note(Path(service.run_dir).parent, service.node)
    if before != service:
        bootservice.write_note(service)
    return {"changed": before != service, "boot": _plain(service)}


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = value.model_dump(mode="json", by_alias=True)
    return plain


def act(options: dict[str, Any]) -> dict[str, Any]:
    """Do what `state` asks. SmolError and OSError are the caller's."""
    state = options["state"]
    if "boot" in state:
        return act_on_boot(options)
    if state == "pruned":
        freed = prune(Path(options["workdir"]).expanduser(), options["keep"], options["caches"])
        return {"changed": bool(freed.runs or freed.caches), "freed": freed.plain()}
    if state in ("checked", "listed"):
        found = jobs_here(options)
        return {"changed": False, "version": smolcluster.__version__, "python": sys.executable, **found}
    if state == "started":
        node_file = Path(options["node_file"])
        if options["node_config"]:
            write_atomic(node_file, options["node_config"])
        job = start_job(node_file, replace=options["replace"], launcher=options["launcher"])
        return {"changed": True, "job": job.model_dump(mode="json", by_alias=True)}
    run_dir = Path(options["run_dir"]).expanduser()
    if state == "stopped":
        job = stop_job(run_dir, options["node"])
        return {"changed": True, "job": job.model_dump(mode="json", by_alias=True)}
    answer = poll_job(run_dir, options["node"], renew=False)
    served = served_here(run_dir, options["node"], answer.serving)
    return {"changed": False, "served": served, **answer.model_dump(mode="json", by_alias=True)}


def main() -> None:
    module = AnsibleModule(argument_spec=_ARGUMENTS, required_if=_NEEDS)
    if MISSING:
        module.fail_json(msg=f"{sys.executable} has no smolcluster ({MISSING})")
    try:
        module.exit_json(**act(module.params))
    except (SmolError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
