#!/usr/bin/python
"""Ansible module: the service that starts what a node serves, through smolcluster.jobs.upkeep on that node."""

from __future__ import annotations

import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from smolcluster.errors import SmolError
    from smolcluster.jobs.upkeep import Upkeep, act

    MISSING = ""
except ImportError as error:
    MISSING = str(error)

DOCUMENTATION = r"""
module: smolcluster_boot
short_description: The service by which a node serves its part of a model again when it starts
description:
  - C(asked) says what it takes here; C(found) gives the service that is noted. C(planned) gives that for a node.yaml,
    C(noted) writes down that it is there, C(forgotten) that none is any more; the role boot_service does the rest, with
    an administrator's rights. C(installed) and C(removed) do all of it, with the rights there are.
  - smolcluster_boot.ps1 is its twin for Windows. Both hand everything to smolcluster.jobs.upkeep.
options:
  state:
    type: str
    required: true
    choices: [asked, found, planned, noted, forgotten, installed, removed]
    description: What to do.
  node_file: {type: str, description: "The node.yaml of the run that is served (planned, noted, installed)."}
  workdir: {type: str, description: "The folder of this machine's runs (found, forgotten, removed); may start with ~."}
  node: {type: str, description: "This machine's name in the inventory (found, forgotten, removed)."}
  python: {type: str, description: The interpreter that has smolcluster; only Windows asks for it here.}
author: smolcluster
"""

EXAMPLES = r"""
- smolcluster_boot: {state: found, node: pi5, workdir: ~/.smolcluster/runs}
- smolcluster_boot: {state: planned, node_file: /home/pi/.smolcluster/runs/run-1/nodes/pi5/node.yaml}
"""

RETURN = r"""
boot: {description: The service; null where there is none., type: dict, returned: but for asked}
administrator: {description: Whether it takes an administrator's rights., type: bool, returned: asked}
"""

_ARGUMENTS: dict[str, Any] = {
    "state": {
        "type": "str",
        "required": True,
        "choices": ["asked", "found", "planned", "noted", "forgotten", "installed", "removed"],
    },
    "node_file": {"type": "str"},
    "workdir": {"type": "str"},
    "node": {"type": "str"},
    "python": {"type": "str"},
}
_NEEDS = [
    ("state", "planned", ["node_file"]),
    ("state", "noted", ["node_file"]),
    ("state", "installed", ["node_file"]),
    ("state", "found", ["workdir", "node"]),
    ("state", "forgotten", ["workdir", "node"]),
    ("state", "removed", ["workdir", "node"]),
]


def main() -> None:
    module = AnsibleModule(argument_spec=_ARGUMENTS, required_if=_NEEDS)
    if MISSING:
        module.fail_json(msg=f"{sys.executable} has no smolcluster ({MISSING})")
    try:
        given = {key: value for key, value in module.params.items() if value is not None and key != "python"}
        module.exit_json(**act(Upkeep(**given)))
    except (SmolError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
