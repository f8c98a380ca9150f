"""What a person means by a run's name: the same words for every command that looks at a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolcluster.errors import InputError, Problem
from smolcluster.plan.types import KINDS
from smolcluster.runtime.runfolder import RunFolder, read_json, run_at
from smolcluster.spec.problems import did_you_mean

LATEST = "latest"
RUNS = Path("runs")
WHICH = "A run's folder or its name below runs/, latest for the last one."


@contextmanager
def uncollected() -> Iterator[None]:
    """While inside, or in a function so decorated, nobody looks for garbage. A report makes tens of thousands of
    records that all stay until it is written; looking through them again and again took a fifth of its time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            # What was made meanwhile counts as old: else all of it would be looked through now.
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def run_named(text: str, runs: Path = RUNS) -> Path:
    """The path that is meant by a run's name below `runs`, `latest`, or a path; it need not be there."""
    below = runs / text
    return below if "/" not in text and below.exists() else Path(text).expanduser()


def missing(text: str) -> Problem | None:
    """What is wrong with a run's name that leads nowhere, and how to mend it; None where something is there."""
    if run_named(text).exists():
        return None
    any_run = any(RUNS.glob("*/plan.json"))
    otherwise = "give a folder under runs/, or runs/latest" if any_run else "none was made here yet: make train"
    return Problem(text, 0, "", "there is no such run", guess(text, otherwise=otherwise))


def existing_run(text: str) -> Path:
    """The path that is meant by a run's name. InputError when nothing is there."""
    problem = missing(text)
    if problem is not None:
        raise InputError([problem])
    return run_named(text)


def guess(text: str, runs: Path = RUNS, otherwise: str = "") -> str:
    """`did you mean latest?`, or the run of the nearest name; else the other advice."""
    names = [path.parent.name for path in runs.glob("*/plan.json")]
    if (runs / LATEST).exists():
        names.append(LATEST)  # where there are no links it is a file
    return did_you_mean(Path(text).name, sorted(set(names), reverse=True), otherwise)


def last_trained(runs: Path) -> Path:
    """What `runs`/latest points to, or the last run that trained where that one served a model."""
    newest = runs / LATEST
    if _kind(run_at(newest)) not in KINDS:
        return newest
    plans = sorted(runs.glob("*/plan.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    return next((file.parent for file in plans if _kind(file.parent) not in KINDS), newest)


def has_served(folder: Path) -> bool:
    """Whether a run served a model."""
    return _kind(folder) == "inference"


def _kind(folder: Path) -> str:
    """What a run's plan says it is; that of a training says nothing."""
    try:
        return str(read_json(RunFolder(folder).plan).get("kind", ""))
    except (OSError, ValueError):
        return ""
