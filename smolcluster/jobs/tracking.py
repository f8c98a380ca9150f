"""The process that tells a tracker of a run as it goes on: beside whoever follows the run, and never one of its ranks.

It reads the run's folder on the controller. It ends with the process that it was started for, which it looks for every
two seconds, or when a report asks it by a file to tell the rest. What fails in it fails no run: its last words are in
tracking/log.txt.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil
from pydantic import Field, ValidationError

from smolcluster.jobs.identity import ProcessId, alive, end, identify, wait_gone
from smolcluster.observe.report import summary_of
from smolcluster.observe.tracking.live import Live
from smolcluster.observe.tracking.sink import TrackerError, require
from smolcluster.observe.tracking.tracked import about_run, note_sent, opens_of, sent_to
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.base import Frozen

LIVE_SCHEMA = 1
LOOK_EVERY_S = 2.0
# How long the rest may take to be told when the run has ended; an upload may wait for a slow line.
FINISH_S = 180.0
_GRACE_S = 5.0


class LiveNote(Frozen):
    """tracking/live.json: the process that tells `to` of this run."""

    schema_: int = Field(default=LIVE_SCHEMA, alias="schema", serialization_alias="schema")
    to: Literal["wandb", "tensorboard"]
    mode: Literal["offline", "online"]
    process: ProcessId


@dataclass(frozen=True)
class Ended:
    """How a live tracker ended. `said`: where the run can be seen, where it has all of it; else `why` it has not."""

    said: str = ""
    why: str = ""


def start_tracker(folder: RunFolder, plan: Plan, parent: int | None = None) -> subprocess.Popen[bytes] | None:
    """Start it where the run's config asks for a tracker; None where it asks for none. It ends with the process
    `parent`, which is this one where nothing is said. InputError: its package is not installed. OSError.
    """
    asked = plan.run.tracking
    if asked.tracker == "none":
        return None
    require(asked.tracker)
    who = identify(parent)
    if who is None:
        return None
    command = [sys.executable, "-m", "smolcluster", "track", str(folder.path), "--parent", who.model_dump_json()]
    folder.tracking.mkdir(parents=True, exist_ok=True)
    with log_of(folder).open("wb") as log:
        # A session of its own: Ctrl-C is for whoever follows the run, which then ends, and this after it.
        # wandb's own process that this one may have had would be asked by both, and keeps a killed one's run in use.
        env = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=env
        )
    mine = identify(process.pid)
    if mine is not None:
        note = LiveNote(to=asked.tracker, mode=asked.mode, process=mine)
        write_atomic(_note(folder), note.model_dump_json(by_alias=True) + "\n")
    return process


def follow_into_tracker(folder: RunFolder, plan: Plan, parent: ProcessId) -> int:
    """What the process does. Its exit code: 0 where the tracker has the whole run, 3 where it was left alone before.

    TrackerError, InputError.
    """
    asked = plan.run.tracking
    assert asked.tracker != "none", "it was started because there is one"
    stop = threading.Event()

    def ask_to_stop(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    about = about_run(folder, plan, asked.tracker, asked.mode, folder.path.name, live=True)
    with Live(folder, plan, about, opens_of(asked.tracker)) as live:
        while not _finish_file(folder).exists():
            if stop.is_set() or not alive(parent):
                live.look()
                raise TrackerError("whoever followed the run ended, and so did its tracker")
            live.look()
            stop.wait(LOOK_EVERY_S)
        said = live.finish(summary_of(folder.path))
    note_sent(folder, asked.tracker, said)
    return 0


def being_tracked(folder: RunFolder) -> LiveNote | None:
    """The live tracker that is at this run now."""
    note = _read_note(folder)
    return note if note is not None and alive(note.process) else None


def finish_tracker(folder: RunFolder, limit_s: float = FINISH_S) -> Ended | None:
    """Have the run's live tracker tell the rest, and wait until it has ended; None where the run never had one.

    One that takes longer is ended, with the processes that it started.
    """
    note = _read_note(folder)
    if note is None:
        return None
    if alive(note.process):
        write_atomic(_finish_file(folder), "")
        if not wait_gone(note.process, limit_s):
            _end_all(note.process)
            return Ended(why=f"its live tracker took longer than {limit_s:.0f} s to tell the rest")
    said = sent_to(folder).get(note.to)
    return Ended(said=said) if said is not None else Ended(why=f"its live tracker ended early: {last_words(folder)}")


def end_tracker(folder: RunFolder) -> None:
    """End the run's live tracker, if one is left, whatever it has told."""
    note = being_tracked(folder)
    if note is not None:
        _end_all(note.process)


def last_words(folder: RunFolder) -> str:
    """What the live tracker said last."""
    try:
        lines = log_of(folder).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "it left no word")


def log_of(folder: RunFolder) -> Path:
    """What the live tracker says."""
    return folder.tracking / "log.txt"


def _note(folder: RunFolder) -> Path:
    return folder.tracking / "live.json"


def _finish_file(folder: RunFolder) -> Path:
    return folder.tracking / ".finish"


def _read_note(folder: RunFolder) -> LiveNote | None:
    try:
        return LiveNote.model_validate_json(_note(folder).read_bytes())
    except (OSError, ValidationError):
        return None


def _end_all(who: ProcessId) -> None:
    """End the process and those that a tracker started for itself, if they are still there."""
    below: list[psutil.Process] = []
    if alive(who):
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(who.pid).children(recursive=True)
    end(who, _GRACE_S)
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def parse_process(text: str) -> ProcessId | None:
    """A process as start_tracker names it; None where the text is none."""
    try:
        return ProcessId.model_validate(json.loads(text))
    except ValueError:
        return None
