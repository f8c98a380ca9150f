"""Action plugin: send files to a folder of a machine, which needs no Python for it.

Nothing is compared: whoever calls it knows which files the machine lacks, and checks there what arrived.

- name: Send what is missing
  smolcluster_send:
    files: ["/tmp/wheels/torch-2.13.0-cp311-cp311-macosx_11_0_arm64.whl"]
    dest: /home/pi/.smolcluster/incoming
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_SPEC = {
    "files": {"type": "list", "elements": "str", "required": True},
    "dest": {"type": "str", "required": True},
}
# From here on a person should know what is being waited for.
_WORTH_SAYING_MB = 20


class ActionModule(ActionBase):  # type: ignore[misc]
    """Put `files` into the folder `dest`, which is made. What lies there under the same name is replaced."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        files = [Path(name) for name in args["files"]]
        result["changed"] = bool(files)
        if not files or self._task.check_mode:
            return result
        total_mb = sum(path.stat().st_size for path in files) / 2**20
        if total_mb >= _WORTH_SAYING_MB:
            name = (task_vars or {}).get("inventory_hostname", "")
            Display().display(f"{name}  sending {len(files)} files, {total_mb:.0f} MB")
        windows = getattr(self._connection._shell, "SHELL_FAMILY", "sh") == "powershell"
        # Absolute: Ansible's ~ is the user's home in its files, not the one of a login.
        folder = args["dest"]
        self._make(folder, windows)
        for path in files:
            self._connection.put_file(str(path), self._connection._shell.join_path(folder, path.name))
        return result

    def _make(self, folder: str, windows: bool) -> None:
        if windows:
            quoted = folder.replace("'", "''")
            script = f"$null = New-Item -ItemType Directory -Force -Path '{quoted}'"
            command = self._connection._shell._encode_script(script, preserve_rc=True)
        else:
            command = f"mkdir -p {shlex.quote(folder)}"
        done = self._low_level_execute_command(command, sudoable=False)
        if done["rc"]:
            raise AnsibleActionFail(f"{folder}: {(done['stderr'] or done['stdout']).strip()}")
