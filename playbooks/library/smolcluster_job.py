#!/usr/bin/python
"""Ansible module: the job of one node and run, through smolcluster.jobs on that node."""

from __future__ import annotations

import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from smolcluster.errors import SmolError
    from smolcluster.jobs.acting import Action, act

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
  - smolcluster_job.ps1 is its twin for Windows. Both hand everything to smolcluster.jobs.acting.
options:
  state: {type: str, required: true, choices: [checked, started, stopped, polled, listed], description: What to do.}
  workdir: {type: str, description: "The folder of this machine's runs (checked, listed); may start with ~."}
  node: {type: str, description: "This machine's name in the inventory."}
  node_file: {type: str, description: The node.yaml to start.}
  node_config: {type: str, description: What is written to C(node_file) first; without it the file is there.}
  ca: {type: str, default: "", description: Of which authority this node must have a certificate (checked).}
  crl: {type: str, default: "", description: The SHA-256 of that authority's list of revoked ones (checked).}
  run_dir: {type: str, description: The run's folder on this machine (stopped, polled).}
  replace: {type: bool, default: false, description: Stop an active run first.}
  launcher: {type: str, default: auto, description: How a supervisor is started (smolcluster.jobs.Launcher).}
  python: {type: str, description: The interpreter that has smolcluster; only Windows asks for it here.}
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
code: {description: A hash of its modules; two installations of one version may differ., type: str, returned: checked}
python: {description: The interpreter, absolute., type: str, returned: checked}
certificates: {description: Where this node's certificates lie; empty: none needed., type: str, returned: checked}
certificate_problem: {description: Why others would refuse it; empty: they would not., type: str, returned: checked}
"""

_ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["checked", "started", "stopped", "polled", "listed"]},
    "workdir": {"type": "str"},
    "node": {"type": "str"},
    "node_file": {"type": "str"},
    "node_config": {"type": "str"},
    "ca": {"type": "str", "default": ""},
    "crl": {"type": "str", "default": ""},
    "run_dir": {"type": "str"},
    "replace": {"type": "bool", "default": False},
    "launcher": {"type": "str", "default": "auto"},
    "python": {"type": "str"},
}
_NEEDS = [
    ("state", "checked", ["workdir", "node"]),
    ("state", "listed", ["workdir", "node"]),
    ("state", "started", ["node_file"]),
    ("state", "stopped", ["run_dir", "node"]),
    ("state", "polled", ["run_dir", "node"]),
]


def main() -> None:
    module = AnsibleModule(argument_spec=_ARGUMENTS, required_if=_NEEDS)
    if MISSING:
        module.fail_json(msg=f"{sys.executable} has no smolcluster ({MISSING})")
    try:
        given = {key: value for key, value in module.params.items() if value is not None and key != "python"}
        module.exit_json(**act(Action(**given)))
    # ValueError: a launcher that smolcluster does not know.
    except (SmolError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
