"""Action plugin: print a text to the person as it stands, without JSON, quotes or escapes.

- name: Show the plan
  smolcluster_say:
    text: "{{ lookup('ansible.builtin.template', 'report.txt.j2') }}"
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):  # type: ignore[misc]
    """Print `text` on the controller. An empty text prints nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec={"text": {"type": "str", "required": True}})
        result: dict[str, Any] = super().run(tmp, task_vars)
        text = args["text"].rstrip()
        if text:
            Display().display(text)
        result["changed"] = False
        return result
