"""Ansible's default output, calmer: a line for what was changed, none for what was fine, and a failure is one message.

With -v or more it is the default output again, details and origins included. On Ctrl-C it says what became of the run.
"""

from __future__ import annotations

import atexit
import gc
from typing import Any

from ansible import constants as C
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

DOCUMENTATION = """
name: smol
type: stdout
short_description: Ansible's default output with failures as plain messages
description:
  - The default output; what was fine or skipped is left out, what was changed is a line, a failure is one text.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
options:
  display_ok_hosts:
    default: false
  display_skipped_hosts:
    default: false
  result_format:
    default: yaml
requirements:
  - set as stdout in configuration
"""


class CallbackModule(DefaultCallback):  # type: ignore[misc]
    """Plain failures, and a last word when the person presses Ctrl-C while a run is followed."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "smol"

    def __init__(self) -> None:
        super().__init__()
        self._run_id: str | None = None
        self._named = ""
        self._under_way = False
        self._last_words: list[str] = []
        atexit.register(self._interrupted)
        # Each task of each node is a process forked from this one: what is there by now stays, and is nobody's to look
        # through again, here or there.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Note when a run is started."""
        if self._run_id and task.action.rsplit(".", 1)[-1] == "smolcluster_job" and task.args.get("state") == "started":
            self._under_way = True
        super().v2_playbook_on_task_start(task, is_conditional)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note which run this is about."""
        run = result.result.get("ansible_facts", {}).get("plan_run")
        if isinstance(run, dict) and not run["detach"]:
            self._run_id, self._named = run["id"], run["named"]
        if text := result.result.get("smolcluster_last_word"):
            self._last_words.append(text)
        if self._display.verbosity:
            super().v2_runner_on_ok(result)
        elif result.result.get("changed", False):
            self._handle_warnings_and_exception(result)
            line = f"changed: [{self.host_label(result)}] {result.task.get_name().strip()}"
            self._display.display(line, color=C.COLOR_CHANGED)
        else:
            self._handle_warnings_and_exception(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """The task's own line says enough."""
        if self._display.verbosity:
            super().v2_runner_item_on_ok(result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Which file a task comes from is a detail."""
        if self._display.verbosity:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The playbook came to its end, well or not: nothing is left behind. What was kept for the end is said."""
        self._under_way = False
        super().v2_playbook_on_stats(stats)
        for text in self._last_words:
            self._display.display(text)

    def _interrupted(self) -> None:
        """At the end of the process: on_stats is only skipped when the person interrupted us."""
        if self._under_way:
            collect = f"ansible-playbook {self._named}collect.yml -e run_id={self._run_id}"
            self._display.display(
                f"\nNobody follows the run any more, so it ends by itself within 15 s on every node.\n"
                f"What it leaves can be fetched then: {collect}",
                color=C.COLOR_WARN,
            )

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A failure with a message is shown as that message."""
        message = result.result.get("msg")
        if self._display.verbosity or not isinstance(message, str) or result.task.loop:
            super().v2_runner_on_failed(result, ignore_errors)
        elif not ignore_errors:
            self._failure(result, "FAILED", message)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """As with a failure."""
        message = result.result.get("msg")
        if self._display.verbosity or not isinstance(message, str):
            super().v2_runner_on_unreachable(result)
        elif not result.task.ignore_unreachable:
            self._failure(result, "UNREACHABLE", message)

    def _failure(self, result: Any, word: str, message: str) -> None:
        self._handle_warnings(result.result)
        text = f"\n{word} [{self.host_label(result)}] {result.task.get_name().strip()}\n{message.rstrip()}"
        self._display.display(text, color=C.COLOR_ERROR, stderr=self.get_option("display_failed_stderr"))
