"""Action plugin: call a command of smolcluster on the controller, `python -m smolcluster ...`.

As ansible.builtin.command does it, without a module: that is packed, unpacked and compiled by an interpreter of its
own before the command's begins. A command that fails is no failure of the task: what it says is shown as it is. One
that does not end within `within_s` seconds is ended, and fails so.

- name: Decide what every rank does
  smolcluster_command:
    argv: [plan, --strategy, fsdp]
    chdir: /home/me/smolcluster
  register: plan_outcome
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from ansible.plugins.action import ActionBase

_SPEC: dict[str, dict[str, Any]] = {
    # What follows `python -m smolcluster`.
    "argv": {"type": "list", "elements": "str", "required": True},
    "chdir": {"type": "path", "required": True},
    "stdin": {"type": "str", "default": ""},
    # More for what fetches: a data set, or a model's weights.
    "within_s": {"type": "float", "default": 900.0},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Call it in `chdir`; the result has rc, stdout, stdout_lines, stderr, stderr_lines."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        more: dict[str, str] = {}
        self._compute_environment_string(more)
        # A path of the command line may start with ~, as a shell would take it.
        argv = [os.path.expanduser(os.path.expandvars(word)) for word in args["argv"]]  # noqa: PTH111 - few are paths
        try:
            done = subprocess.run(
                [sys.executable, "-m", "smolcluster", *argv],
                cwd=args["chdir"],
                env={**os.environ, **more},
                input=args["stdin"].encode(),
                capture_output=True,
                timeout=args["within_s"],
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            what = f"{' '.join(argv[:1])}: it had not ended after {late.timeout:g} s, and was ended."
            fix = "    fix: look at the network and the disk of this machine, then start the playbook again"
            return {**result, **_told(1, "", f"{_text(late.stderr or b'')}{what}\n{fix}")}
        except OSError as error:
            return {**result, **_told(1, "", f"{args['chdir']}: {error.strerror}")}
        return {**result, **_told(done.returncode, _text(done.stdout), _text(done.stderr))}


def _text(said: bytes) -> str:
    return said.decode(errors="surrogateescape")


def _told(code: int, stdout: str, stderr: str) -> dict[str, Any]:
    """As the module command has it, but stdout to the last byte: a plan is hashed."""
    stderr = stderr.rstrip("\r\n")
    lines = {"stdout_lines": stdout.rstrip("\r\n").splitlines(), "stderr_lines": stderr.splitlines()}
    said = {"rc": code, "stdout": stdout, "stderr": stderr, "msg": stderr if code else "", **lines}
    return {"changed": False, "failed": False, **said}
