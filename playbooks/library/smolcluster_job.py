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
    from smolcluster.jobs import list_runs, poll_job, start_job, stop_job
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
options:
  state: {type: str, required: true, choices: [checked, started, stopped, polled, listed], description: What to do.}
  workdir: {type: str, description: "The folder of this machine's runs (checked, listed); may start with ~."}
  node: {type: str, description: "This machine's name in the inventory."}
  node_file: {type: path, description: The node.yaml to start.}
  node_config: {type: str, description: What is written to C(node_file) first; without it the file is there.}
  run_dir: {type: path, description: The run's folder on this machine (stopped, polled).}
  replace: {type: bool, default: false, description: Stop an active run first.}
  launcher: {type: str, default: auto, description: How a supervisor is started (smolcluster.jobs.Launcher).}
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
served: {description: What this node does for a served model; empty for a training., type: str, returned: polled}
workdir: {description: The work folder, absolute., type: str, returned: checked, listed}
version: {description: The version of smolcluster there., type: str, returned: checked}
python: {description: The interpreter, absolute., type: str, returned: checked}
"""

_ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["checked", "started", "stopped", "polled", "listed"]},
    "workdir": {"type": "str"},
    "node": {"type": "str"},
    "node_file": {"type": "path"},
    "node_config": {"type": "str"},
    "run_dir": {"type": "path"},
    "replace": {"type": "bool", "default": False},
    "launcher": {"type": "str", "default": "auto"},
}
_NEEDS = [
    ("state", "checked", ["workdir", "node"]),
    ("state", "listed", ["workdir", "node"]),
    ("state", "started", ["node_file"]),
    ("state", "stopped", ["run_dir", "node"]),
    ("state", "polled", ["run_dir", "node"]),
]


def jobs_here(options: dict[str, Any]) -> dict[str, Any]:
    """Every run that the work folder knows of this node; the active ones are marked."""
    workdir = Path(options["workdir"]).expanduser().absolute()
    entries = [entry.model_dump(mode="json", by_alias=True) for entry in list_runs(workdir)]
    mine = [entry for entry in entries if entry["job"]["node"] == options["node"]]
    return {"workdir": str(workdir), "jobs": mine}


def act(options: dict[str, Any]) -> dict[str, Any]:
    """Do what `state` asks. SmolError and OSError are the caller's."""
    state = options["state"]
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
