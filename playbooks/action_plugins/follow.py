"""Action plugin: follow one node of a run until its part has ended, and keep its lease alive meanwhile.

A supervisor that died is started again, as often as the run allows restarts: nobody else would do it. Of a run that
serves a model it says when it answers, and where; with `until_ready` that is the end.

One task per node, all at the same time. It prints a line of progress as it goes, never fails the play (what went wrong
is its result, so that collecting and reporting still happen), and never waits for ever: not for a node that gives no
answer, and not for a rank that hangs after another node's part has failed.

Nodes learn of each other through small files in the controller's run folder: `.follow/<node>` holds how its part ended,
`.follow/.ready` says that the served model answered, `.follow/.stop.json` that somebody at the dashboard wants an end.
With `bring` each answer has what a node's logs and metrics got since, which goes where collect will put all of them.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from pydantic import ValidationError

from smolcluster.errors import SmolError
from smolcluster.jobs.asking import Asking, NoAnswerError, pause_s
from smolcluster.jobs.identity import orphaned
from smolcluster.jobs.nodeclock import NodeClock
from smolcluster.jobs.pieces import Brought
from smolcluster.jobs.poll import poll_job
from smolcluster.jobs.remarking import Remarks
from smolcluster.jobs.remote import posix_command, powershell_command
from smolcluster.jobs.restarts import SupervisorRestarts
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.telling import ServedLines, StepLines, Telling
from smolcluster.jobs.types import ASKED_GRACE_S, START_DEADLINE_S, STOP_GRACE_S, PollResult
from smolcluster.observe.records import Reader
from smolcluster.observe.serving_lines import address_lines, example_lines
from smolcluster.observe.tablet_lines import tablet_link_lines
from smolcluster.runtime.onetime import make_onetime
from smolcluster.runtime.runfolder import RunFolder, ServingNote, StopWish, write_atomic
from smolcluster.runtime.tabletnote import tablet_key

_SPEC: dict[str, dict[str, Any]] = {
    "node": {"type": "str", "required": True},
    "run_dir": {"type": "str", "required": True},
    "home": {"type": "str", "required": True},
    "nodes": {"type": "list", "elements": "str", "required": True},
    "python": {"type": "str", "required": True},
    "local": {"type": "bool", "required": True},
    "named": {"type": "str", "default": ""},
    "start_failure": {"type": "str", "default": ""},
    "node_file": {"type": "str", "default": ""},
    "launcher": {"type": "str", "default": "auto"},
    "max_restarts": {"type": "int", "default": 0},
    "needs": {"type": "list", "elements": "str"},
    "serves": {"type": "bool", "default": False},
    "api": {"type": "bool", "default": False},
    "api_key_file": {"type": "str", "default": ""},
    "secret_file": {"type": "str", "default": ""},
    "ready_s": {"type": "float", "default": 300.0},
    "until_ready": {"type": "bool", "default": False},
    "bring": {"type": "bool", "default": False},
    "every_s": {"type": "float", "default": 5.0},
    "answer_s": {"type": "float", "default": 15.0},
    "lease_s": {"type": "float", "default": 12.0},
    "straggle_s": {"type": "float", "default": 75.0},
}
_ENDED = ("completed", "failed", "stopped")
_LOCAL_POLL_S = 1.0
# The next poll leaves this much later after one that is not answered yet, three at most: so a node whose polls take all
# of answer_s keeps its lease of 12 s.
_PATIENCE_S = 2.0
_UNDER_WAY = 3
_LOOK_UP_S = 1.0


@contextlib.contextmanager
def _whole_line() -> Iterator[None]:
    """Put off Ctrl-C while a line is handed over. Ansible ends this process on the spot then, and one that ends in the
    middle keeps the lock that the playbook itself waits for, for ever."""
    came: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda got, _: came.append(got)) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Follow `node` until its job ended, it gave no answer for `answer_s`, or it hangs after another's failure."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _, self._options = self.validate_argument_spec(argument_spec=_SPEC)
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._home = RunFolder(Path(self._options["home"]))
        self._width = max(len(name) for name in self._options["nodes"])
        self._task_vars = task_vars
        self._told: dict[str, str] = {}
        self._brought = Brought(self._home.node(self._options["node"])) if self._options["bring"] else None
        self._clock = NodeClock(self._home.clock(self._options["node"]))
        self._links: dict[str, str] = {}
        self._restarts = SupervisorRestarts(self._options["max_restarts"], self._options["serves"])
        outcome = self._outcome()
        self._note(outcome)
        return {**result, "changed": False, "failed": False, **outcome}

    def _outcome(self) -> dict[str, Any]:
        if self._options["start_failure"]:
            return self._said("failed", self._options["start_failure"], at_once=True)
        lines = self._telling()
        began, answered, why = time.monotonic(), time.monotonic(), ""
        note: ServingNote | None = None
        asking = self._asking()
        # A controller that was killed leaves this process behind: without this check it would renew the lease for ever.
        while not orphaned():
            answer = asking.wait(_LOOK_UP_S)
            if isinstance(answer, PollResult):
                answered, why = time.monotonic(), ""
                note = answer.serving or note
                self._keep(answer)
                self._show(lines.lines(answer, answered))
                self._tell_links(answer)
                self._ready(answer.serving)
                if answer.job.lost and self._straggles() is None and self._restarts.due(answer.job, answered):
                    if (failure := self._start_again()) is not None:
                        return self._said("failed", failure, at_once=True)
                    answered, asking = time.monotonic(), self._asking()
                    continue
                if answer.job.state in _ENDED:
                    self._show(lines.last(answer, answered))
                    return self._ended(answer)
                if (reason := self._straggles()) is not None:
                    return self._stop(reason)
                if (wish := self._wished()) is not None:
                    return self._stop(wish.reason, grace_s=ASKED_GRACE_S)
                if self._options["until_ready"] and self._home.was_ready.exists():
                    return self._said("serving", "")
                if self._late(answered - began):
                    return self._give_up(answered - began, note)
                continue
            if answer is not None:
                if not why:
                    self._print(f"no answer, trying again: {answer}")
                why = str(answer)
            silent_s = time.monotonic() - answered
            if silent_s > self._options["answer_s"] and not self._may_come_back():
                why = why or "the connection hangs"
                return self._said("lost", f"no answer for {silent_s:.0f} s; {self._ends_there()}: {why}")
        return self._said("lost", "the controller was ended")

    # Asking the node

    def _asking(self) -> Asking[PollResult]:
        if self._options["local"]:
            return Asking(self._poll, _LOCAL_POLL_S, _LOCAL_POLL_S + _PATIENCE_S, under_way=1)
        every_s = pause_s(self._options["lease_s"], self._options["answer_s"])
        return Asking(self._poll, every_s, every_s + _PATIENCE_S, _UNDER_WAY)

    def _poll(self) -> PollResult:
        if self._options["local"]:
            try:
                return poll_job(Path(self._options["run_dir"]), self._options["node"])
            except (SmolError, OSError) as error:
                raise NoAnswerError(str(error)) from error
        have = [word for text in self._brought.have for word in ("--have", text)] if self._brought is not None else []
        asked = time.time()
        text = self._ask("poll", *(("--bring", *have) if self._brought is not None else ()))
        heard = time.time()
        try:
            answer = PollResult.model_validate_json(text)
        except ValidationError as error:
            raise NoAnswerError(f"what came back is no answer of this smolcluster: {text[:200]!r}") from error
        self._clock.answered(asked, answer.time, heard)
        return answer

    def _wished(self) -> StopWish | None:
        """Whether somebody at the dashboard wants the run to end."""
        try:
            return StopWish.model_validate_json(self._home.stop_wish.read_bytes())
        except (OSError, ValidationError):
            return None

    def _stop(self, reason: str, state: str = "stopped", grace_s: float = STOP_GRACE_S) -> dict[str, Any]:
        """End this node's part, which goes on although the run has failed, or is wanted no more."""
        self._print(f"ending it: {reason}")
        try:
            if self._options["local"]:
                stop_job(Path(self._options["run_dir"]), self._options["node"], reason, grace_s)
            else:
                self._ask("stop")
        except (NoAnswerError, SmolError, OSError) as error:
            return self._said("lost", f"{reason}; it could not be ended ({error}); {self._ends_there()}")
        return self._said(state, reason, at_once=state == "failed")

    def _ends_there(self) -> str:
        """What becomes of the part of a node that cannot be reached."""
        if not self._options["until_ready"]:
            return "the run ends there by itself"
        stop = f"{self._options['named']}stop.yml -e run_id={self._home.path.name}"
        return f"detached, it goes on there until ansible-playbook {stop}"

    # A served model

    def _ready(self, note: ServingNote | None) -> None:
        """Tell everybody when it answers for the first time: the other nodes, and the person where; the person again
        if that has changed, as an API that was started again takes another free port where 0 was asked for.
        """
        if note is None or note.state != "ready" or note.urls == self._told:
            return
        self._told = note.urls
        if not self._home.was_ready.exists():
            write_atomic(self._home.was_ready, "")
        key_file = self._options["api_key_file"]
        key = Path(key_file).read_text(encoding="utf-8").strip() if key_file else ""
        # Good for its time by the clock of the API's machine, which may not be ours.
        onetime = make_onetime(key, note.time) if key else ""
        elsewhere = "" if self._options["local"] else self._options["node"]
        for line in (*address_lines(note.urls, key, onetime, elsewhere), *example_lines(note, bool(key))):
            # The keys are for the person in front of the screen, not for a log that Ansible may keep.
            with _whole_line():
                Display().display(f"{'':<{self._width}}  {line}", screen_only=bool(key))

    def _tell_links(self, answer: PollResult) -> None:
        """By what link a tablet comes in, when it is waited for, and again if that has changed."""
        for tablet in answer.tablets:
            if tablet.state == "connected" or self._links.get(tablet.tablet) == tablet.address:
                continue
            self._links[tablet.tablet] = tablet.address
            key = tablet_key(Path(self._options["secret_file"]).read_bytes().strip())
            for line in tablet_link_lines(tablet, key):
                with _whole_line():
                    Display().display(f"{'':<{self._width}}  {line}", screen_only=True)

    def _late(self, seconds: float) -> bool:
        """Whether it should have answered by now. The API's node judges for all."""
        return self._options["api"] and seconds > self._options["ready_s"] and not self._home.was_ready.exists()

    def _give_up(self, seconds: float, note: ServingNote | None) -> dict[str, Any]:
        why = (note.reason or note.state) if note is not None else "its API has not begun"
        return self._stop(f"not ready after {seconds:.0f} s: {why}", "failed")

    def _may_come_back(self) -> bool:
        """Whether a silent node is asked on: the others serve without it meanwhile, and take it in again."""
        if not self._options["serves"] or self._options["node"] in self._needed():
            return False
        return self._straggles() is None

    # A dead supervisor

    def _start_again(self) -> str | None:
        """Start a supervisor that takes the run over; why it could not be, or None."""
        self._print("its supervisor died, killed or with the machine; starting it again")
        arguments = {
            "state": "started", "node_file": self._options["node_file"], "launcher": self._options["launcher"],
            "python": self._options["python"],
        }  # fmt: skip
        try:
            answer = self._within(
                partial(self._execute_module, "smolcluster_job", arguments, task_vars=self._task_vars),
                START_DEADLINE_S + self._options["answer_s"],
            )
        except NoAnswerError as error:
            return f"its supervisor died and could not be started again: {error}"
        if answer.get("failed") or answer.get("unreachable"):
            return f"its supervisor died and could not be started again: {answer.get('msg', 'no reason was given')}"
        return None

    def _ask(self, what: str, *more: str) -> str:
        """Stdout of `python -m smolcluster job WHAT` on the node. NoAnswerError if it fails or takes too long."""
        run_dir, node = self._options["run_dir"], self._options["node"]
        arguments = ["-m", "smolcluster", "job", what, "--run-dir", run_dir, "--node", node, *more]
        shell = self._connection._shell
        if getattr(shell, "_IS_WINDOWS", False):
            script = powershell_command(self._options["python"], arguments)
            command = shell._encode_script(script, strict_mode=False, preserve_rc=False)
        else:
            command = posix_command(self._options["python"], arguments)
        answer = self._within(
            partial(self._low_level_execute_command, command, sudoable=False), self._options["answer_s"]
        )
        if answer["rc"] != 0:
            raise NoAnswerError(answer["stderr"].strip()[-500:] or f"exit code {answer['rc']}")
        return str(answer["stdout"])

    def _within(self, call: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
        """What a call over the connection gives. NoAnswerError if it fails or takes longer."""
        answers: queue.SimpleQueue[dict[str, Any] | AnsibleError] = queue.SimpleQueue()

        def execute() -> None:
            try:
                answers.put(call())
            except AnsibleError as error:
                answers.put(error)

        # In a thread, because a connection has no deadline of its own; a stuck one dies with this process.
        threading.Thread(target=execute, daemon=True).start()
        try:
            answer = answers.get(timeout=seconds)
        except queue.Empty:
            raise NoAnswerError(f"the connection hangs for {seconds:.0f} s") from None
        if isinstance(answer, AnsibleError):
            raise NoAnswerError(str(answer.message).strip()) from answer
        return answer

    # Other nodes

    def _note(self, outcome: dict[str, Any]) -> None:
        note = {key: outcome[key] for key in ("state", "reason", "at_once")} | {"time": time.time()}
        write_atomic(self._home.followed(self._options["node"]), json.dumps(note))

    def _needed(self) -> list[str]:
        """The nodes whose end is the run's. To begin with a served model wants all of them."""
        if self._options["needs"] is None or (self._options["serves"] and not self._home.was_ready.exists()):
            return list(self._options["nodes"])
        return list(self._options["needs"])

    def _straggles(self) -> str | None:
        """Why this node must be ended now: a needed one's part has failed and this one had its time to notice."""
        for name in self._needed():
            try:
                note = json.loads(self._home.followed(name).read_text())
            except FileNotFoundError:
                continue
            if note["state"] == "serving":
                continue  # it is served, and no longer followed
            if note["state"] == "completed" and time.time() - note["time"] <= 2 * self._options["straggle_s"]:
                # A rank that died after its work was done starts again and finds nobody: in the end it is stopped.
                continue
            if note["at_once"] or time.time() - note["time"] > self._options["straggle_s"]:
                return f"the run has {note['state']} on {name}"
        return None

    # What is said

    def _keep(self, answer: PollResult) -> None:
        """Leave what a node elsewhere answered for `watch` and the dashboard. It is worth no failure."""
        if Path(self._options["run_dir"]).expanduser() == self._home.path and self._options["local"]:
            return  # the node's own files lie there
        with contextlib.suppress(OSError):
            if self._brought is not None:
                self._brought.take(answer.pieces)
            text = answer.model_dump_json(by_alias=True, exclude={"pieces"})
            write_atomic(self._home.heard(self._options["node"]), text)
            self._clock.keep()

    def _ended(self, answer: PollResult) -> dict[str, Any]:
        failed = [failure.model_dump(mode="json") for failure in answer.failed]
        # Why a rank failed is said where it did; all others would say it again.
        echo = bool(failed) and not any(failure.root_cause for failure in answer.failed)
        return self._said(answer.job.state, answer.job.reason, failed=failed, echo=echo)

    def _said(
        self,
        state: str,
        reason: str,
        *,
        at_once: bool = False,
        failed: list[dict[str, Any]] | None = None,
        echo: bool = False,
    ) -> dict[str, Any]:
        if state not in ("completed", "serving"):
            self._print(f"{state}: {'ended with the others' if echo else reason}")
        return {
            "node": self._options["node"],
            "state": state,
            "reason": reason,
            "at_once": at_once,
            "ranks_failed": failed or [],
            "echo": echo,
        }

    def _telling(self) -> Telling:
        node, every_s = self._options["node"], self._options["every_s"]
        if self._options["serves"]:
            return ServedLines(node, self._width, every_s)
        plan = Reader().plan(self._home.plan)
        return StepLines(node, self._width, every_s, Remarks(self._home, plan.ranks).of if plan else lambda _: "")

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            with _whole_line():
                Display().display(line)

    def _print(self, text: str) -> None:
        self._show([f"{self._options['node']:<{self._width}}  {text}"])
