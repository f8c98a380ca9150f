"""What became of the stages, from what the head says of itself each time it is asked: recent speeds, and what happened.

It keeps no account of its own beside the head's: a loss begins with the first answer that is not `ready` and ends with
the next one that is, so times are as exact as the head is asked often, which for serving.json is about once a second.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable

from smolcluster.chat.backend.answers import StageEvent, StageHealth, StagesAnswer, StageStrip
from smolcluster.infer.head import Health, StageNow

# The recent speed is the median over so many times between two answers in which the stage computed.
_SPEEDS = 30
_MOST_EVENTS = 32


class StageWatch:
    """Hears every answer of the head's, in order."""

    def __init__(self) -> None:
        self._events: deque[StageEvent] = deque(maxlen=_MOST_EVENTS)
        self._next = 0
        self._speeds: dict[int, _Speed] = {}
        self._served: Health | None = None  # the last that was ready
        self._lost_at: float | None = None

    def saw(self, health: Health, now: float | None = None) -> None:
        """An answer that came `now`, in seconds of any steady clock."""
        now = time.monotonic() if now is None else now
        for stage in health.stages:
            self._speeds.setdefault(stage.rank, _Speed()).saw(stage)
        served = self._served
        if health.state == "ready":
            if self._lost_at is not None and served is not None:
                self._over(served, health, now - self._lost_at)
            elif served is not None and served.epoch != health.epoch:  # between two answers
                self._begin(health, ())
                self._over(served, health, 0.0)
            self._served, self._lost_at = health, None
        elif health.state == "lost" and served is not None:
            gone = _gone(health)
            if self._lost_at is None:
                self._lost_at = now
                self._begin(health, gone)
            else:
                self._change(ranks=sorted({*self._events[-1].ranks, *gone}), names=health.stages)

    def answer(self, health: Health, tokens_per_s: float) -> StagesAnswer:
        """All of it."""
        connections = {note.tablet: note.state for note in health.tablets}
        return StagesAnswer(
            state=health.state,
            reason=health.reason,
            epoch=health.epoch,
            tokens_per_s=round(tokens_per_s, 1),
            stages=[
                StageStrip(
                    rank=stage.rank,
                    node=stage.node,
                    layers=(stage.start, stage.stop) if stage.stop > stage.start else None,
                    ms_per_token=self._speeds[stage.rank].median if stage.rank in self._speeds else None,
                    health=_how(stage, health),
                    tablet=stage.tablet,
                    connection=connections.get(stage.node, "") if stage.tablet else "",
                )
                for stage in health.stages
            ],
            events=list(self._events),
        )

    def _begin(self, health: Health, gone: Iterable[int]) -> None:
        number, self._next = self._next, self._next + 1
        self._events.append(
            StageEvent(number=number, time=time.time(), ranks=[], nodes=[], reason=health.reason, done="", seconds=None)
        )
        self._change(ranks=sorted(gone), names=health.stages)

    def _change(self, ranks: list[int], names: Iterable[StageNow]) -> None:
        nodes = [stage.node for stage in names if stage.rank in ranks]
        self._events[-1] = self._events[-1].model_copy(update={"ranks": ranks, "nodes": list(dict.fromkeys(nodes))})

    def _over(self, before: Health, after: Health, seconds: float) -> None:
        update = {"done": _done(before, after, self._events[-1].nodes), "seconds": round(seconds, 1)}
        self._events[-1] = self._events[-1].model_copy(update=update)


class _Speed:
    """Of one stage, whose counts may begin anew."""

    def __init__(self) -> None:
        self._ms: deque[float] = deque(maxlen=_SPEEDS)
        self._layers = (0, 0)
        self._steps, self._busy_s = 0, 0.0

    @property
    def median(self) -> float | None:
        return round(statistics.median(self._ms), 2) if self._ms else None

    def saw(self, stage: StageNow) -> None:
        if not stage.alive or not stage.steps:  # it may only have been too slow to say so
            return
        if self._layers != (stage.start, stage.stop):
            self._ms.clear()
        if self._layers == (stage.start, stage.stop) and stage.steps > self._steps and stage.busy_s > self._busy_s:
            self._ms.append(1000 * (stage.busy_s - self._busy_s) / (stage.steps - self._steps))
        self._layers = stage.start, stage.stop
        self._steps, self._busy_s = stage.steps, stage.busy_s


def _gone(health: Health) -> tuple[int, ...]:
    """Who cannot be reached. Without the head nobody knows of the others."""
    gone = tuple(stage.rank for stage in health.stages if not stage.alive)
    return (0,) if 0 in gone else gone


def _how(stage: StageNow, health: Health) -> StageHealth:
    if not stage.alive:
        return "lost"
    return "serving" if health.state == "ready" and stage.stop > stage.start else "recovering"


def _done(before: Health, after: Health, nodes: list[str]) -> str:
    """What was done about a loss, in words: from the layers before and after."""
    had, have = ({stage.rank for stage in one.stages if stage.stop > stage.start} for one in (before, after))
    layers = ", ".join(f"{stage.node} {stage.start}:{stage.stop}" for stage in after.stages if stage.rank in have)
    left, came = (
        ", ".join(stage.node for stage in after.stages if stage.rank in ranks) for ranks in (had - have, have - had)
    )
    if left:
        return f"went on without {left}: {layers}"
    if came:
        return f"took {came} in: {layers}"
    return f"{', '.join(nodes)} came back: {layers}" if nodes else f"connected anew: {layers}"
