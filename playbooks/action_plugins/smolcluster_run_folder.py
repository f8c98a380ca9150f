"""Action plugin: make a run's folder on the controller: its plan, the wires, a new secret, a new key, links to it.

All of it in one task and in this process: a module for each file takes the time of a Python interpreter each. The
secret and the key are drawn here, so that neither is ever an argument.

- name: Make the run's folder
  smolcluster_run_folder:
    dir: "{{ run.dir }}"
    plan: "{{ plan_text }}"
    inventory: inventory/home.smol.yml
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from smolcluster.errors import ConfigError
from smolcluster.files import explain_with_path
from smolcluster.runtime.newrun import fill_folder, keep_topology, link_model, point_latest
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.runtime.scraping import write_scraping_of
from smolcluster.spec.inventory import load_inventory

_SPEC: dict[str, dict[str, Any]] = {
    "dir": {"type": "path", "required": True},
    "plan": {"type": "str", "required": True},
    # Has the machines of the plan, and the wires between them, which the run's dashboard shows.
    "inventory": {"type": "path", "required": True},
    "key": {"type": "bool", "default": False},
    "model": {"type": "str", "default": ""},
    "detached": {"type": "bool", "default": False},
    "latest": {"type": "bool", "default": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Fill `dir`; link `model`, if any, into it; note in it whether the run is `detached`; with `latest` make
    runs/latest lead to it.
    """

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        folder = RunFolder(Path(args["dir"]))
        try:
            fill_folder(folder, args["plan"], args["key"])
            nodes = list(dict.fromkeys(rank["node"] for rank in json.loads(args["plan"])["ranks"]))
            # The plan was made from it a moment ago; if somebody is at it right now, the run does without the picture.
            with contextlib.suppress(ConfigError):
                keep_topology(folder, load_inventory(Path(args["inventory"])), nodes)
            write_scraping_of(folder, args["plan"])
            if args["detached"]:
                write_atomic(folder.detached, "")
        except OSError as error:
            raise AnsibleActionFail(explain_with_path(error)) from None
        if args["model"]:
            link_model(folder, Path(args["model"]))
        if args["latest"] and not point_latest(folder.path):
            latest = folder.path.parent / "latest"
            raise AnsibleActionFail(f"{latest} is a folder, and is to lead to the newest run. Fix: move it away")
        return {**result, "changed": True}
