"""What an experiment tracker is to us: something that is told of a run, of its rows, and of its end.

A sink is a context manager: a block that raises leaves nothing behind that looks complete. Trackers are optional
packages, imported where they are used, and never by a process that trains.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from smolcluster.errors import InputError, PeerError, Problem
from smolcluster.observe.report import RunStory
from smolcluster.observe.tracking.rows import Row, rows_of
from smolcluster.runtime.runfolder import Summary

Tracker = Literal["wandb", "tensorboard"]
TRACKERS: tuple[Tracker, ...] = ("wandb", "tensorboard")


class TrackerError(PeerError):
    """A tracker would not have the run: no network, no key, no room. The run is as it was."""


class Sink(Protocol):
    """Takes one run."""

    def write(self, row: Row) -> None:
        """The values of a step. Rows come in order; while a run goes on, a later one may have more values of a step
        that others were told of before.
        """
        ...

    def flush(self) -> None:
        """Let whoever looks see what was written so far."""
        ...

    def finish(self, summary: dict[str, Any]) -> str:
        """The run has ended like that. Gives where it can be seen, or what to do to see it."""
        ...


@dataclass(frozen=True)
class About:
    """What a sink is told before the rows. `folder` is its own to write into; `mode`: of W&B, offline or online.
    `live`: the run goes on, and what is written is to be seen at once.
    """

    run_id: str
    project: str
    strategy: str
    config: dict[str, Any]
    folder: Path
    mode: Literal["offline", "online"] = "offline"
    live: bool = False


Opens = Callable[[About], AbstractContextManager[Sink]]


def require(tracker: Tracker) -> None:
    """InputError unless its package is installed."""
    if importlib.util.find_spec(tracker) is None:
        fix = f"pip install 'smolcluster[{tracker}]'   (in a clone: .venv/bin/pip install -e '.[{tracker}]')"
        raise InputError([Problem("", 0, tracker, f"the package {tracker} is not installed", fix)])


def send(story: RunStory, summary: Summary, about: About, opens: Opens) -> str:
    """Tell a sink all of a run; gives what it says in the end."""
    about.folder.mkdir(parents=True, exist_ok=True)
    with opens(about) as sink:
        for row in rows_of(story):
            sink.write(row)
        return sink.finish(facts_of(summary))


def facts_of(summary: Summary) -> dict[str, Any]:
    """A summary as a sink takes it."""
    return summary.model_dump(mode="json", by_alias=True, exclude_none=True)


def fresh(folder: Path) -> Path:
    """A folder beside `folder` to write into, empty; what a broken attempt left goes."""
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    return beside


def put_in_place(beside: Path, folder: Path) -> Path:
    """Give a folder that is whole its name; gives it. What had the name goes."""
    shutil.rmtree(folder, ignore_errors=True)
    return beside.rename(folder)
