"""Action plugin: how far a machine's clock is from the controller's. Nothing is set.

The machine's answer came between a question and its arrival here, so each question bounds the offset; the bounds of
several are laid over each other. A connection's delay makes them wider, never wrong.

- name: Compare the clocks
  smolcluster_clock:
    command: "python3 -c 'import time; print(time.time())'"
  register: compared      # offset_s: positive where the machine is ahead; within_s: how sure that is
"""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from smolcluster.provision.clocks import bounds, overlap

_SPEC = {
    "command": {"type": "str", "required": True},
    "questions": {"type": "int", "default": 4},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Run `command`, which prints seconds since 1970, a few times."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        found, command = [], args["command"]
        if getattr(self._connection._shell, "SHELL_FAMILY", "sh") == "powershell":
            command = self._connection._shell._encode_script(command, preserve_rc=True)
        for _ in range(args["questions"]):
            asked = time.time()
            done = self._low_level_execute_command(command, sudoable=False)
            heard = time.time()
            try:
                found.append(bounds(asked, float(done["stdout"].strip()), heard))
            except ValueError:
                words = (done["stderr"] or done["stdout"]).strip()
                raise AnsibleActionFail(f"its clock cannot be read: {words}") from None
        offset, within = overlap(found)
        result.update(changed=False, offset_s=round(offset, 3), within_s=round(within, 3))
        return result
