"""Action plugin: what the module smolcluster_job does, in this process where the node is this machine.

A module is packed, unpacked and compiled by an interpreter of its own, which then imports smolcluster: most of a second
of CPU time for each node. A node elsewhere, one with another interpreter, and one that sudo would be needed for have
the module.

- name: Ask the node
  smolcluster_job: {state: checked, node: node1, workdir: runs, python: "{{ smol_python }}"}
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from smolcluster.errors import SmolError
from smolcluster.jobs.acting import Action, act

# What changes nothing, of this and of those that do as it does.
_LOOKS = frozenset({"checked", "polled", "listed", "asked", "found", "planned"})


class ActionModule(ActionBase):  # type: ignore[misc]
    """Do what `state` asks, with the module's options and its result."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if not self._here():
            return {**result, **self._execute_module(task_vars=task_vars)}
        if self._task.check_mode and self._task.args.get("state") not in _LOOKS:
            return {**result, "skipped": True, "msg": "not with --check"}
        given = {key: value for key, value in self._task.args.items() if value is not None and key != "python"}
        try:
            # Ansible takes what a task writes to stderr for a mistake of the task's.
            with contextlib.redirect_stderr(io.StringIO()):
                return {**result, **self._act(given)}
        # ValueError: an option that smolcluster does not know.
        except (SmolError, OSError, ValueError) as error:
            return {**result, "failed": True, "msg": str(error)}

    def _act(self, given: dict[str, Any]) -> dict[str, Any]:
        return act(Action(**given))

    def _here(self) -> bool:
        """Whether the module would run as this user, on this machine, in this interpreter and its environment."""
        python = self._task.args.get("python")
        return (
            self._connection.transport == "local"
            and not self._connection.become
            and not any(self._task.environment or ())
            and python is not None
            and Path(python).expanduser() == Path(sys.executable)
        )
