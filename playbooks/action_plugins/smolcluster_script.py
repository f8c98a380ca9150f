"""Action plugin: run one of our scripts that need nothing but Python on a machine, sent to it over the connection.

As ansible.builtin.command does it with `stdin`, without a module: that is packed, unpacked and compiled there by an
interpreter of its own, which on a Raspberry Pi takes seconds.

- name: Ask its own tools
  smolcluster_script:
    python: "{{ ansible_python_interpreter }}"
    script: "{{ lookup('ansible.builtin.file', 'gather.py') }}"
    argv: [pi5, linux]
  register: answer
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

_SPEC: dict[str, dict[str, Any]] = {
    "python": {"type": "str", "required": True},
    # Its text.
    "script": {"type": "str", "required": True},
    "argv": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Run it, with `become` as an administrator. The result has rc, stdout and stderr; it failed where rc is not 0."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        command = self._connection._shell.join([args["python"], "-I", "-", *args["argv"]])
        done = self._low_level_execute_command(command, in_data=f"{args['script']}\n".encode())
        stdout, stderr = (done[name].rstrip("\r\n") for name in ("stdout", "stderr"))
        lines = {"stdout_lines": stdout.splitlines(), "stderr_lines": stderr.splitlines()}
        failed = done["rc"] != 0
        msg = stderr or f"it ended with {done['rc']}" if failed else ""
        return {
            **result,
            "changed": False,
            "failed": failed,
            "rc": done["rc"],
            "stdout": stdout,
            "stderr": stderr,
            "msg": msg,
            **lines,
        }
