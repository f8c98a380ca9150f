#!/usr/bin/python
"""Ansible module: what a run needs on a node, put in its place there; and what it left, as one archive."""

from __future__ import annotations

import sys
import tarfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from smolcluster.errors import SmolError
    from smolcluster.jobs.parcel import Step, step

    MISSING = ""
except ImportError as error:
    MISSING = str(error)

DOCUMENTATION = r"""
module: smolcluster_tree
short_description: A node's side of what travels between it and the controller
description:
  - The action plugins smolcluster_bring and smolcluster_fetch call it; what is copied goes over the connection.
  - C(opened) makes a folder that only the user can read, for the files that are missing in C(run_dir), and names both;
    C(closed) gives what has come into it its place.
  - C(packed) writes logs, metrics and results of one node, and the model where it has one, into an archive.
    Secrets (the control link's token, the run's secret) stay on the node. Checkpoints stay too, unless they are asked
    for. Their manifests come along.
  - smolcluster_tree.ps1 is its twin for Windows. Both hand everything to smolcluster.jobs.parcel.
options:
  state: {type: str, required: true, choices: [packed, opened, closed], description: What to do.}
  run_dir: {type: str, required: true, description: The folder on this machine; may start with ~.}
  node: {type: str, required: true, description: This machine's name in the inventory.}
  checkpoints: {type: bool, default: false, description: Whether the files of checkpoints are packed as well.}
  files: {type: list, elements: dict, description: "What is brought: name, mode and, where it is whole, hash."}
  whole: {type: bool, default: false, description: The folder's name says what is in it; it gets it when all is there.}
  keep: {type: bool, default: false, description: Files that are there already stay as they are.}
  python: {type: str, description: The interpreter that has smolcluster; only Windows asks for it here.}
author: smolcluster
"""

EXAMPLES = r"""
- smolcluster_tree: {state: packed, run_dir: ~/.smolcluster/runs/run-1, node: pi5}
"""

RETURN = r"""
archive: {description: The archive that was written., type: str, returned: packed}
part: {description: The folder into which the missing files go., type: str, returned: opened}
missing: {description: Their names., type: list, returned: opened}
files: {description: How many files were packed or put in their place., type: int, returned: packed, closed}
"""

_ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["packed", "opened", "closed"]},
    "run_dir": {"type": "str", "required": True},
    "node": {"type": "str", "required": True},
    "checkpoints": {"type": "bool", "default": False},
    "files": {"type": "list", "elements": "dict"},
    "whole": {"type": "bool", "default": False},
    "keep": {"type": "bool", "default": False},
    "python": {"type": "str"},
}
_NEEDS = [("state", "opened", ["files"]), ("state", "closed", ["files"])]


def main() -> None:
    module = AnsibleModule(argument_spec=_ARGUMENTS, required_if=_NEEDS)
    if MISSING:
        module.fail_json(msg=f"{sys.executable} has no smolcluster ({MISSING})")
    try:
        given = {key: value for key, value in module.params.items() if value is not None and key != "python"}
        module.exit_json(**step(Step(**given)))
    except (SmolError, OSError, tarfile.TarError) as error:
        module.fail_json(msg=f"{module.params['run_dir']}: {error}")


if __name__ == "__main__":
    main()
