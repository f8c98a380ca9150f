"""The end of a growing file, without reading the rest: a run's metrics and logs get long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from smolcluster.runtime.metricsfile import StepRecord

_CHUNK_BYTES = 16 * 1024
# Link records stand between step records; a file without a step record in its last megabyte has none to show.
_SEARCH_BYTES = 1024 * 1024
_LINE_CHARACTERS = 2000


def last_step(metrics: Path) -> StepRecord | None:
    """The newest whole step record of a metrics.jsonl that is being written; None if there is none (yet)."""
    for line in _lines_backwards(metrics):
        if b'"loss"' not in line:
            continue
        try:
            return StepRecord.model_validate(json.loads(line))
        except (ValueError, ValidationError, RecursionError):
            continue
    return None


def last_lines(log: Path, count: int) -> tuple[str, ...]:
    """The last `count` lines of a log, oldest first, long ones cut. Empty if there is no log."""
    lines: list[str] = []
    for raw in _lines_backwards(log, torn=True):
        text = raw.decode("utf-8", errors="replace").rstrip("\r")
        # A progress bar rewrites its line with carriage returns: what stood there last is what a person saw.
        text = text.rpartition("\r")[2].rstrip()
        if text or lines:
            lines.append(text[:_LINE_CHARACTERS])
        if len(lines) == count:
            break
    return tuple(reversed(lines))


def _lines_backwards(path: Path, torn: bool = False) -> Iterator[bytes]:
    """Whole lines from last to first, of at most _SEARCH_BYTES. `torn`: also a last one that has no end yet."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        position = file.seek(0, 2)
        stop = max(0, position - _SEARCH_BYTES)
        rest = b""
        ended = torn
        while position > stop:
            start = max(stop, position - _CHUNK_BYTES)
            file.seek(start)
            pieces = (file.read(position - start) + rest).split(b"\n")
            position = start
            rest = pieces[0]
            for piece in reversed(pieces[1:]):
                if ended:
                    yield piece
                ended = True
        if ended and position == 0:
            yield rest
