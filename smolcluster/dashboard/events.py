"""GET /dashboard/events: what happened besides steps, by the clock of this machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

from smolcluster.dashboard.answers import EventAnswer, EventKind, EventsAnswer
from smolcluster.observe.events import MOST_EVENTS, Event, EventLogs
from smolcluster.plan.types import RankPlan
from smolcluster.runtime.runfolder import RunFolder

_FAULT = re.compile(r"^fault, as the config asks\b")
_RANK = re.compile(r"\brank (\d{1,7})\b")
_STEP = re.compile(r"\bstep (\d{1,15})\b")


class Happened:
    """The events of one run."""

    def __init__(self, folder: RunFolder, ranks: tuple[RankPlan, ...]) -> None:
        self._folder = folder
        self._ranks = ranks
        self._logs = EventLogs(folder, ranks)

    def answer(self, ahead_s: Mapping[str, float], slowest: tuple[str, str] | None) -> EventsAnswer:
        """All of them. `ahead_s`: how far each machine's clock is ahead; `slowest`: a machine, and why it is."""
        told = [*self._logs.look(), *self._lost()]
        found = [_event(event, ahead_s.get(event.node, 0.0)) for event in told]
        found = [self._at_whom(event) if event.kind == "fault" else event for event in found]
        if slowest is not None:
            node, why = slowest
            found.append(_event(Event(None, node, "straggler", why), 0.0))
        found.sort(key=lambda event: (event.time is None, event.time or 0.0))
        return EventsAnswer(cursor=_digest([event.id for event in found]), events=found[-MOST_EVENTS:])

    def _at_whom(self, event: EventAnswer) -> EventAnswer:
        """A fault on purpose is told by all ranks; it is the one's whom it hits."""
        named = _RANK.search(event.text)
        hit = next((rank for rank in self._ranks if named is not None and rank.rank == int(named[1])), None)
        return event.model_copy(update={"node": hit.node, "rank": hit.rank}) if hit is not None else event

    def _lost(self) -> Sequence[Event]:
        """Machines that the playbook lost: it says so where their own logs cannot. By our clock."""
        found = []
        for node in dict.fromkeys(rank.node for rank in self._ranks):
            try:
                note = json.loads(self._folder.followed(node).read_text(encoding="utf-8"))
                if note["state"] == "lost":
                    found.append(Event(float(note["time"]), node, "leave", f"{node} is lost: {note['reason']}"))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found


def _event(event: Event, ahead_s: float) -> EventAnswer:
    kind: EventKind = "fault" if _FAULT.match(event.text) else event.kind
    step = _STEP.search(event.text)
    # What it is known by must not depend on how well clocks are known by now.
    return EventAnswer(
        id=_digest([event.node, event.kind, event.text, str(event.time)]),
        time=event.time - ahead_s if event.time is not None else None,
        node=event.node,
        rank=event.rank,
        kind=kind,
        step=int(step[1]) if step is not None else None,
        text=event.text,
    )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
