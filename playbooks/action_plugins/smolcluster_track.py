"""Action plugin: start the process that tells the run's tracker of it while it goes on, where its config asks for one.

The process ends with the playbook. That it could not be started is said, and fails nothing: the report uploads the run.

- name: Tell its tracker of the run as it goes on
  smolcluster_track:
    dir: "{{ run.dir }}"
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from smolcluster.errors import InputError
from smolcluster.jobs.tracking import start_tracker
from smolcluster.observe.records import Reader
from smolcluster.observe.report import plan_in
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder

_SPEC: dict[str, dict[str, Any]] = {"dir": {"type": "path", "required": True}}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Start it for the run in `dir`."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        folder = RunFolder(Path(args["dir"]))
        plan = plan_in(folder.path, Reader())
        playbook = multiprocessing.parent_process()
        started = False
        if isinstance(plan, Plan) and playbook is not None:
            try:
                started = start_tracker(folder, plan, playbook.pid) is not None
            except (InputError, OSError) as error:
                Display().display(f"the run goes on without its tracker: {error}")
        return {**result, "changed": started}
