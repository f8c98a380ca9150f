"""Action plugin: refuse a misspelt -e, which Ansible would take without a word as a variable that nobody reads.

Only a name that is nearly one of `known` is refused, or one of `elsewhere`, which another playbook reads: a person's
inventory may read variables of its own. `nodes`: the names of machines, or of the inventory's groups, that the playbook
takes as a pattern of hosts; one that is none would be passed over with a warning.

- name: Refuse a misspelt variable
  smolcluster_flags:
    known: [strategy, model]
    elsewhere: [download]
    nodes: "{{ nodes | default([]) }}"
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

_SPEC = {
    "known": {"type": "list", "elements": "str", "required": True},
    "elsewhere": {"type": "list", "elements": "str", "default": []},
    "nodes": {"type": "list", "elements": "str", "default": []},
}
# As close as did_you_mean of the configs asks for.
_CLOSE = 0.7
# Variables of the roles themselves, which their defaults document.
_OF_ROLES = (
    "ansible_", "smol_", "plan_", "preflight_", "run_folder_", "ship_", "job_", "follow_", "collect_", "report_",
    "network_", "boot_service_", "housekeeping_", "doctor_", "runtime_", "clock_", "awake_", "firewall_",
    "certificates_", "reach_",
)  # fmt: skip


class ActionModule(ActionBase):  # type: ignore[misc]
    """Compare the names of the command line's extra variables with `known` and `elsewhere`."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        known = args["known"]
        wrong = []
        for name in sorted(set(load_extra_vars(self._loader)) - set(known)):
            if name.startswith(_OF_ROLES):
                continue
            near = difflib.get_close_matches(name, known, 1, _CLOSE)
            if name in args["elsewhere"]:
                wrong.append(f"-e {name}=...: this playbook has no such thing. It reads {', '.join(known)}")
            elif near:
                wrong.append(f"-e {name}=...: nobody reads it. Fix: did you mean {near[0]}?")
        wrong += _unknown(args["nodes"], (task_vars or {}).get("groups", {}))
        if wrong:
            result.update(failed=True, msg="\n".join(wrong))
        result["changed"] = False
        return result


def _unknown(nodes: Iterable[str], groups: dict[str, list[str]]) -> list[str]:
    """What is wrong with the names of machines. A pattern of Ansible's is nobody's name."""
    machines = groups.get("all", [])
    found = []
    for name in (each.strip() for each in nodes if each.strip()):
        if name in machines or name in groups or re.search(r"[^\w.-]", name):
            continue
        if name == "auto":
            what = "auto is what train.yml chooses by predicted times, and nothing is predicted here"
            found.append(f"-e nodes=auto: {what}. Fix: name the machines, or leave it away for all")
            continue
        near = difflib.get_close_matches(name, machines, 1, _CLOSE)
        fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(machines)}"
        found.append(f"-e nodes=...: there is no machine {name} in the inventory. Fix: {fix}")
    return found
