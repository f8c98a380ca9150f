"""A line of a run's logs: when, how loud, what. Pure.

Ranks and supervisors write UTC with a Z, seconds and mostly a level. Supervisors of before wrote the local time of
their machine, which is taken for this one's.
"""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

_LINE = re.compile(
    r"^(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?(Z?) (?:(DEBUG|INFO|WARNING|ERROR|CRITICAL) )?(.*)$"
)


class Stamped(NamedTuple):
    """A line that begins with a time. `time`: seconds since 1970 by its machine's clock, None where there is no such
    time; `level` "" where it has none.
    """

    time: float | None
    level: str
    text: str


def stamped(line: str) -> Stamped | None:
    """The parts of a line; None if it does not begin with a time."""
    parts = _LINE.match(line)
    if parts is None:
        return None
    stamp, fraction, zone, level, text = parts.groups()
    return Stamped(_seconds(stamp, fraction or "0", zone), level or "", text)


def _seconds(stamp: str, fraction: str, zone: str) -> float | None:
    try:
        when = datetime.datetime.fromisoformat(stamp)
        seconds = (when.replace(tzinfo=datetime.UTC) if zone else when.astimezone()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return seconds + float(f"0.{fraction}")
