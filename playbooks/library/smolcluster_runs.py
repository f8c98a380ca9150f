#!/usr/bin/python
"""Ansible module: delete old runs of a node's work folder, through smolcluster.jobs.upkeep on that node."""

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
module: smolcluster_runs
short_description: Delete old runs that nobody needs
description:
  - smolcluster_runs.ps1 is its twin for Windows. Both hand everything to smolcluster.jobs.upkeep.
options:
  workdir: {type: str, required: true, description: "The folder of this machine's runs; may start with ~."}
  keep: {type: int, default: 0, description: How many of the newest runs are kept; 0 for all.}
  caches: {type: bool, default: false, description: Whether data and weights go too that no run left uses.}
  python: {type: str, description: The interpreter that has smolcluster; only Windows asks for it here.}
author: smolcluster
"""

EXAMPLES = r"""
- smolcluster_runs: {workdir: ~/.smolcluster/runs, keep: 20}
"""

RETURN = r"""
freed: {description: "Runs, caches and bytes that were deleted, old runs kept.", type: dict, returned: always}
"""

_ARGUMENTS: dict[str, Any] = {
    "workdir": {"type": "str", "required": True},
    "keep": {"type": "int", "default": 0},
    "caches": {"type": "bool", "default": False},
    "python": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=_ARGUMENTS)
    if MISSING:
        module.fail_json(msg=f"{sys.executable} has no smolcluster ({MISSING})")
    given = {key: module.params[key] for key in ("workdir", "keep", "caches")}
    try:
        module.exit_json(**act(Upkeep(state="pruned", **given)))
    except (SmolError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
