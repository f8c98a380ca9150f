"""What happened in a run besides steps, from its logs, its checkpoints and its metrics. Pure.

Logs are of many machines: each line has its own one's clock, in UTC. Supervisors of earlier versions wrote local time
without a zone: such a line is taken for this machine's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smolcluster.observe.loglines import stamped
from smolcluster.observe.ranks import straggler
from smolcluster.observe.report import RunStory
from smolcluster.plan.types import RankPlan
from smolcluster.runtime.runfolder import RunFolder

Kind = Literal["restart", "join", "leave", "checkpoint", "straggler", "warning", "error", "end"]

# Of a log that is longer its end is read: progress lines fill it.
READ_BYTES = 2 << 20
MOST_EVENTS = 500
MOST_CHARACTERS = 500

_RANK: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("join", re.compile(r"^rank \d+ is here\b")),
    ("leave", re.compile(r"^rank \d+ (?:left|is gone|is let go)\b")),
    ("checkpoint", re.compile(r"^checkpoint of step \d+ in ")),
    ("restart", re.compile(r"^rank \d+ of \d+ is in generation [1-9]\d*$")),
    ("restart", re.compile(r"^(?:resumed from step|goes on after step) ")),
)
_SUPERVISOR: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("restart", re.compile(r"^(?:restart \d+ of|rank \d+ is started again|rank \d+ started, .*restart|taken over)")),
    ("error", re.compile(r"^failed\b")),
    ("warning", re.compile(r"^the machine is slowed down: (?!no longer$)")),
    ("end", re.compile(r"^(?:completed|stopped|stopping)\b")),
    ("leave", re.compile(r"^rank \d+ ended: (?!done$)")),
)


@dataclass(frozen=True)
class Event:
    """One thing that happened. `time`: seconds since 1970, None where nobody noted it. `rank`: whose log tells of it,
    None: the supervisor's.
    """

    time: float | None
    node: str
    kind: Kind
    text: str
    rank: int | None = None


def events_of(folder: RunFolder, ranks: tuple[RankPlan, ...], read_bytes: int = READ_BYTES) -> tuple[Event, ...]:
    """What the ends of the logs tell, in order of time, MOST_EVENTS at most. Several ranks' same words are one."""
    found = [
        event for node in dict.fromkeys(rank.node for rank in ranks) for event in _told(folder, node, ranks, read_bytes)
    ]
    once: dict[tuple[str, str, int], Event] = {}
    for event in sorted(found, key=lambda event: (event.time or 0.0, event.kind == "end")):
        # What several ranks say of the same moment.
        once.setdefault((event.kind, event.text, int((event.time or 0.0) // 10)), event)
    return tuple(once.values())[-MOST_EVENTS:]


def training_events(folder: RunFolder, story: RunStory) -> tuple[Event, ...]:
    """Those of a training: what the logs tell, and who held up the others."""
    events = events_of(folder, story.plan.ranks)
    slow = straggler(story)
    if slow is None:
        return events
    rank, ratio = slow
    what = f"rank {rank.plan.rank} computes {ratio:.2f} times as long as the others: they wait for it at every step"
    return (*events, Event(None, rank.plan.node, "straggler", what))


def _told(folder: RunFolder, node: str, ranks: tuple[RankPlan, ...], read_bytes: int) -> Iterator[Event]:
    for line in _lines(folder.supervisor_log(node), read_bytes):
        yield from _event(line, node, _SUPERVISOR)
    for rank in ranks:
        if rank.node == node:
            for line in _lines(folder.log(node, rank.rank), read_bytes):
                yield from _event(line, node, _RANK, rank.rank)


def _event(
    line: str, node: str, kinds: tuple[tuple[Kind, re.Pattern[str]], ...], rank: int | None = None
) -> Iterator[Event]:
    found = stamped(line)
    if found is None:
        return
    loud: dict[str, Kind] = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}
    kind = next((kind for kind, pattern in kinds if pattern.match(found.text)), None) or loud.get(found.level)
    if kind is not None:
        yield Event(found.time, node, kind, found.text[:MOST_CHARACTERS], rank)


def _lines(path: Path, read_bytes: int) -> Iterator[str]:
    """The lines of a log's end, none where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - read_bytes))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return
    yield from lines[1 if size > read_bytes else 0 :]
