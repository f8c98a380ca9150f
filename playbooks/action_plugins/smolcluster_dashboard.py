"""Action plugin: start the dashboard of a run on the controller, and say where it is.

It belongs to the playbook: whatever ends that, the dashboard ends within a second or two. It is worth no failure: where
it does not start, the run goes on without.

- name: Show the run in the browser
  smolcluster_dashboard:
    dir: "{{ run.dir }}"
    port: 0
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_SPEC: dict[str, dict[str, Any]] = {
    "dir": {"type": "path", "required": True},
    "port": {"type": "int", "default": 0},
}
# On a busy controller: it imports a web server.
_START_S = 60.0
# What it says first: whose it is, the link, how long that is good for.
_LINES = 3


class ActionModule(ActionBase):  # type: ignore[misc]
    """Start `python -m smolcluster dashboard` for the run in `dir`."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, args = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        # This process ends with the task; the one that made it is the playbook's.
        parent = multiprocessing.parent_process()
        playbook = parent.pid if parent is not None and parent.pid is not None else os.getpid()
        log = Path(args["dir"]) / ".follow" / ".dashboard.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "smolcluster", "dashboard", args["dir"], "--belongs-to", str(playbook)]
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*command, "--port", str(args["port"])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                # A Ctrl-C is the playbook's to hear.
                start_new_session=True,
            )
        lines = _first_lines(process)
        if len(lines) < _LINES:
            process.kill()
            process.wait()
            Display().warning(f"the dashboard did not start: {_end_of(log)}")
            return {**result, "changed": False, "started": False}
        for line in lines:
            # The key in the link is for the person in front of the screen, not for a log that Ansible may keep.
            Display().display(line, screen_only=True)
        return {**result, "changed": True, "started": True}


def _first_lines(process: subprocess.Popen[str]) -> list[str]:
    """What it says first, as far as it came in time."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(line.rstrip("\n"))
        said.put("")

    threading.Thread(target=listen, daemon=True).start()
    lines: list[str] = []
    until = time.monotonic() + _START_S
    while len(lines) < _LINES:
        try:
            line = said.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if not line:
            break
        lines.append(line)
    return lines


def _end_of(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace").strip()[-500:] or "it said nothing"
    except OSError as error:
        return str(error)
