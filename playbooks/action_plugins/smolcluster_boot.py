"""Action plugin: what the module smolcluster_boot does, in this process where the node is this machine.

As smolcluster_job has it, which says why.

- name: Ask for what it serves when it starts
  smolcluster_boot: {state: found, node: node1, workdir: runs, python: "{{ smol_python }}"}
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.loader import action_loader

from smolcluster.jobs.upkeep import Upkeep, act


class ActionModule(action_loader.get("smolcluster_job", class_only=True)):  # type: ignore[misc]
    """Do what `state` asks, with the module's options and its result."""

    def _act(self, given: dict[str, Any]) -> dict[str, Any]:
        return act(Upkeep(**given))
