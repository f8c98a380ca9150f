"""Action plugin: how far a machine's clock is from the controller's. Nothing is set.

The machine's answer came between a question and its arrival here, so each question bounds the offset; the bounds of
several are laid over each other. A connection's delay makes them wider, never wrong.

- name: Compare the clocks
  smolcluster_clock:
    command: "python3 -c 'import time; print(time.time())'"
  register: compared      # offset_s: positive where the machine is ahead; within_s: how sure that is; off: too far

With `wait_s` it is compared again until it is not too far off any more, for so long at most.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from smolcluster.provision.clocks import ALLOWED_S, bounds, is_off, overlap

_SPEC = {
    "command": {"type": "str", "required": True},
    "questions": {"type": "int", "default": 4},
    "allowed_s": {"type": "float", "default": ALLOWED_S},
    "wait_s": {"type": "float", "default": 0.0},
}
_EVERY_S = 1.0


class ActionModule(ActionBase):  # type: ignore[misc]
    """Run `command`, which prints seconds since 1970, a few times."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        command, deadline = args["command"], time.monotonic() + args["wait_s"]
        if getattr(self._connection._shell, "SHELL_FAMILY", "sh") == "powershell":
            command = self._connection._shell._encode_script(command, preserve_rc=True)
        offset, within = self._compare(command, args["questions"])
        while is_off(offset, within, args["allowed_s"]) and time.monotonic() < deadline:
            time.sleep(_EVERY_S)
            offset, within = self._compare(command, args["questions"])
        off = is_off(offset, within, args["allowed_s"])
        result.update(changed=False, offset_s=round(offset, 3), within_s=round(within, 3), off=off)
        return result

    def _compare(self, command: str, questions: int) -> tuple[float, float]:
        """How far it is ahead, and how far from that the truth may be. Seconds."""
        found = []
        for _ in range(questions):
            asked = time.time()
            done = self._low_level_execute_command(command, sudoable=False)
            heard = time.time()
            try:
                found.append(bounds(asked, float(done["stdout"].strip()), heard))
            except ValueError:
                words = (done["stderr"] or done["stdout"]).strip()
                raise AnsibleActionFail(f"its clock cannot be read: {words}") from None
        return overlap(found)
