"""Action plugin: print a text to the person as it stands, without JSON, quotes or escapes.

With `last` the callback smol prints it when everything else is said, so that a person's next step is the last line.

- name: Show the plan
  smolcluster_say:
    text: "{{ lookup('ansible.builtin.template', 'report.txt.j2') }}"
"""

from __future__ import annotations

from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_SPEC = {"text": {"type": "str", "required": True}, "last": {"type": "bool", "default": False}}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Print `text` on the controller, at once or at the very end. An empty text prints nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        text = args["text"].rstrip()
        if args["last"] and C.DEFAULT_STDOUT_CALLBACK == "smol":
            result["smolcluster_last_word"] = text
        elif text:
            Display().display(text)
        result["changed"] = False
        return result
