"""A run that has ended is in its tracker: its live one tells the rest, or another process all of it. What fails there,
or hangs, fails no run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from smolcluster.errors import InputError
from smolcluster.jobs.tracking import end_tracker, finish_tracker, start_tracker
from smolcluster.observe.report import RunStory
from smolcluster.observe.tracking.tracked import sent_to
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder

LIMIT_S = 180.0


@contextmanager
def tracking(folder: RunFolder, plan: Plan) -> Iterator[None]:
    """While inside, the tracker that the run's config asks for is told as it goes on. Why it cannot be is said once."""
    process = None
    try:
        process = start_tracker(folder, plan)
    except (InputError, OSError) as error:
        print(f"the run goes on without its tracker: {error}", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        end_tracker(folder)
        if process is not None:
            process.wait()


def track_if_asked(folder: RunFolder, story: RunStory, shown: Path, limit_s: float = LIMIT_S) -> str:
    """Where the run's config asks for a tracker that has not got it: have its live tracker tell the rest, or upload it.

    Gives what to tell the person, or "".
    """
    to = story.plan.run.tracking.tracker
    if to == "none" or to in sent_to(folder) or not any(rank.result is not None for rank in story.ranks):
        return ""
    live = finish_tracker(folder, limit_s)
    if live is not None and live.said:
        return f"{to}: {live.said}"
    uploaded = _upload(folder, to, shown, limit_s)
    return uploaded if live is None else f"{to}: {live.why}\n{uploaded}"


def _upload(folder: RunFolder, to: str, shown: Path, limit_s: float) -> str:
    command = [sys.executable, "-m", "smolcluster", "upload", str(folder.path), "--to", to]
    later = f"the run is not in {to}; later: python -m smolcluster upload {shown} --to {to}"
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        return f"{later}\n{error}"
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"{later}\nit took longer than {limit_s:.0f} s"
    finally:
        _end(process)
    return out.strip() if process.returncode == 0 else f"{later}\n{err.strip()}"


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and those that a tracker started for itself, if they are still there."""
    if process.poll() is not None:
        return
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    process.kill()
    for child in below:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate()
