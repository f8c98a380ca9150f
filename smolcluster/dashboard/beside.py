"""What lies in a run's folder beside what its ranks wrote: what the playbook heard, clocks, the summary.

Each of them may not be there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from smolcluster.dashboard.seen import Followed
from smolcluster.runtime.runfolder import SUMMARY_SCHEMA, ClockNote, RunFolder, Summary


def followed_of(folder: RunFolder, node: str, now: float) -> Followed:
    """What following a node has told. Of a node on this machine there may be nothing."""
    state = reason = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(folder.followed(node).read_text(encoding="utf-8"))
        state, reason = str(note["state"]), str(note["reason"])
    heard_s = None
    with contextlib.suppress(OSError):
        heard_s = max(0.0, now - folder.heard(node).stat().st_mtime)
    return Followed(state, reason, heard_s, clock_of(folder, node))


def clock_of(folder: RunFolder, node: str) -> float | None:
    """How far a machine's clock is ahead of ours; None where nobody measured it (it is ours)."""
    try:
        return ClockNote.model_validate_json(folder.clock(node).read_bytes()).offset_s
    except (OSError, ValidationError):
        return None


def summary_in(folder: RunFolder) -> Summary | None:
    """summary.json; None before there is one, and where it is of another version."""
    try:
        summary = Summary.model_validate_json(folder.summary.read_bytes())
    except (OSError, ValidationError):
        return None
    return summary if summary.schema_ == SUMMARY_SCHEMA else None


def mark_of(paths: Iterable[Path]) -> str:
    """A word that changes whenever one of these files does."""
    marks = []
    for path in paths:
        with contextlib.suppress(OSError):
            stat = path.stat()
            marks.append((stat.st_size, stat.st_mtime_ns))
    return f"{hash(tuple(marks)) & (1 << 64) - 1:016x}"
