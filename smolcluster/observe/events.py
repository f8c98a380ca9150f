"""What happened in a run besides steps, from its logs, its checkpoints and its metrics. Pure.

Logs are of many machines: each line has its own one's clock, in UTC. Supervisors of earlier versions wrote local time
without a zone: such a line is taken for this machine's.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smolcluster.observe.loglines import stamped
from smolcluster.observe.ranks import straggler
from smolcluster.observe.report import RunStory
from smolcluster.plan.types import RankPlan
from smolcluster.runtime.growing import Growing
from smolcluster.runtime.runfolder import RunFolder

# "stop": a machine's ranks are being ended, by whoever asked for it or because one of them failed; "end": they are.
Kind = Literal["restart", "join", "leave", "checkpoint", "straggler", "warning", "error", "stop", "end"]

# Of a log that is longer already its end is read: progress lines fill it.
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
    ("stop", re.compile(r"^stopping\b")),
    ("end", re.compile(r"^(?:completed|stopped)\b")),
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


class EventLogs:
    """The logs of one run, read on as they grow: nobody reads twice what was no event."""

    def __init__(self, folder: RunFolder, ranks: tuple[RankPlan, ...], read_bytes: int = READ_BYTES) -> None:
        self._logs: list[_Log] = []
        for node in dict.fromkeys(rank.node for rank in ranks):
            mine = [rank.rank for rank in ranks if rank.node == node]
            self._logs.append(_Log(folder.supervisor_log(node), node, None, read_bytes))
            self._logs += [_Log(folder.log(node, rank), node, rank, read_bytes) for rank in mine]

    def look(self) -> tuple[Event, ...]:
        """What the ends of the logs tell, in order of time, MOST_EVENTS at most. Several ranks' same words are one."""
        once: dict[tuple[str, str, int], Event] = {}
        found = [event for log in self._logs for event in log.look()]
        for event in sorted(found, key=lambda event: (event.time or 0.0, event.kind == "end")):
            # What several ranks say of the same moment.
            once.setdefault((event.kind, event.text, int((event.time or 0.0) // 10)), event)
        return tuple(once.values())[-MOST_EVENTS:]


def events_of(folder: RunFolder, ranks: tuple[RankPlan, ...]) -> tuple[Event, ...]:
    """The same, once."""
    return EventLogs(folder, ranks).look()


def training_events(folder: RunFolder, story: RunStory) -> tuple[Event, ...]:
    """Those of a training: what the logs tell, and who held up the others."""
    events = events_of(folder, story.plan.ranks)
    slow = straggler(story)
    if slow is None:
        return events
    rank, ratio = slow
    what = f"rank {rank.plan.rank} computes {ratio:.2f} times as long as the others: they wait for it at every step"
    return (*events, Event(None, rank.plan.node, "straggler", what))


class _Log:
    """One log. `rank` None: the supervisor's."""

    def __init__(self, path: Path, node: str, rank: int | None, read_bytes: int) -> None:
        self._file = Growing(path, read_bytes)
        self._node = node
        self._rank = rank
        self._found: deque[Event] = deque(maxlen=MOST_EVENTS)

    def look(self) -> Iterable[Event]:
        """All that it has told; nothing where it cannot be read."""
        lines, anew = self._file.read()
        if anew:
            self._found.clear()
        kinds = _SUPERVISOR if self._rank is None else _RANK
        for line in (part for read in lines for part in read.decode("utf-8", errors="replace").splitlines()):
            self._found.extend(_event(line, self._node, kinds, self._rank))
        return self._found


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
