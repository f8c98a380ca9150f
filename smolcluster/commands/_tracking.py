"""A run that has ended goes to its tracker, in a process of its own: what fails there, or hangs, fails no run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from smolcluster.observe.report import RunStory
from smolcluster.observe.tracking.tracked import sent_to
from smolcluster.runtime.runfolder import RunFolder

LIMIT_S = 180.0


def track_if_asked(folder: RunFolder, story: RunStory, shown: Path, limit_s: float = LIMIT_S) -> str:
    """Upload the run where its config asks for a tracker that has not got it. Gives what to tell the person, or ""."""
    to = story.plan.run.tracking.tracker
    if to == "none" or to in sent_to(folder) or not any(rank.result is not None for rank in story.ranks):
        return ""
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
