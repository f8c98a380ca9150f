"""Action plugin: put files or a whole folder of the controller onto a node, the same on every operating system.

Ansible's own copy runs modules that Windows lacks, several for each file. This asks the node once what it lacks, puts
that over the connection into a folder which nobody else can read, and has the node give it its place.

- name: Bring plan and secret
  smolcluster_bring:
    src: runs/run-1
    files: [plan.json, secret]
    dest: /home/pi/.smolcluster/runs/run-1
    node: pi5
    python: ~/.smolcluster/venv/bin/python
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from smolcluster.files import explain_with_path
from smolcluster.jobs.parcel import File, files_of

_SPEC: dict[str, dict[str, Any]] = {
    "src": {"type": "path", "required": True},
    # Names in src; all that is in it where none is given.
    "files": {"type": "list", "elements": "str", "default": []},
    "dest": {"type": "str", "required": True},
    "node": {"type": "str", "required": True},
    # The interpreter there.
    "python": {"type": "str", "required": True},
    # Its name says what is in it: it is complete if it is there, and gets that name when it is.
    "whole": {"type": "bool", "default": False},
    # What is there already stays as it is.
    "keep": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Bring `files` of `src`, or all of it, to `dest`. Changed where something was missing there."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        source = Path(args["src"])
        try:
            files = files_of(source, args["files"])
            opened = self._step("opened", args, files, task_vars)
            if opened.get("failed") or not opened["missing"]:
                return {**result, **opened}
            if args["whole"]:
                # Gigabytes are hashed only where something is missing, and what came before a cut is not sent again.
                files = files_of(source, args["files"], hashed=True)
                opened = self._step("opened", args, files, task_vars)
        except OSError as error:
            raise AnsibleActionFail(explain_with_path(error)) from None
        if opened.get("failed"):
            return {**result, **opened}
        for name in opened["missing"]:
            # With / also on Windows, where both are separators.
            self._connection.put_file(str(source / name), f"{opened['part']}/{name}")
        return {**result, **self._step("closed", args, files, task_vars)}

    def _step(
        self, state: str, args: dict[str, Any], files: tuple[File, ...], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        options = {
            "state": state,
            "run_dir": args["dest"],
            "files": [file.model_dump() for file in files],
            **{key: args[key] for key in ("node", "python", "whole", "keep")},
        }
        answer: dict[str, Any] = self._execute_module("smolcluster_tree", options, task_vars=task_vars)
        return answer
