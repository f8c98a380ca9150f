"""Action plugin: bring home what a node left of a run, the same on every operating system.

The node packs it, the archive comes over the connection, and its files go into the run's folder on the controller.
Neither archive stays.

- name: Bring home what the node made
  smolcluster_fetch:
    run_dir: /home/pi/.smolcluster/runs/run-1
    home: runs/run-1
    node: pi5
    python: ~/.smolcluster/venv/bin/python
"""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from smolcluster.jobs.parcel import unpack

_SPEC: dict[str, dict[str, Any]] = {
    "run_dir": {"type": "str", "required": True},
    "home": {"type": "path", "required": True},
    "node": {"type": "str", "required": True},
    # The interpreter there.
    "python": {"type": "str", "required": True},
    "checkpoints": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Put what `node` left in `run_dir` into the folder `home`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        options = {"state": "packed", **{key: args[key] for key in ("run_dir", "node", "python", "checkpoints")}}
        packed = self._execute_module("smolcluster_tree", options, task_vars=task_vars)
        if packed.get("failed") or packed.get("unreachable"):
            return {**result, **packed}
        home = Path(args["home"])
        home.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".collect-", dir=home) as scratch:
                archive = Path(scratch) / "archive.tar.gz"
                self._connection.fetch_file(packed["archive"], str(archive))
                files = unpack(home, archive)
        except (OSError, tarfile.TarError) as error:
            raise AnsibleActionFail(f"{home}: {error}") from None
        finally:
            # A node that has just been lost keeps it.
            with contextlib.suppress(AnsibleConnectionFailure):
                self._low_level_execute_command(self._connection._shell.remove(packed["archive"]), sudoable=False)
        return {**result, "changed": False, "files": files}
