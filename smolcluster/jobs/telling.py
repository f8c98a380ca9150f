"""What a poll's answer says that was not said before, as lines: how a person follows one node of a run. Pure.

What it deliberately does not know: how a node is asked, and who prints.
"""

from __future__ import annotations

from typing import Protocol

from smolcluster.jobs.types import PollResult
from smolcluster.observe.progress import Mark, progress_line, slowest, time_left_s
from smolcluster.observe.serving_lines import ServingLines
from smolcluster.observe.tablet_lines import TabletLines
from smolcluster.runtime.runfolder import JobState


class Telling(Protocol):
    """The lines of one node. `now_s`: seconds of any steady clock."""

    def lines(self, answer: PollResult, now_s: float) -> list[str]:
        """What is new in this answer."""
        ...

    def last(self, answer: PollResult, now_s: float) -> list[str]:
        """What is left to say when the node's part has ended."""
        ...


class StepLines:
    """Of a training: a line at the first step, every `every_s` seconds if there is a new one, and at the end."""

    def __init__(self, node: str, width: int, every_s: float) -> None:
        self._node, self._width, self._every_s = node, width, every_s
        self._start: Mark | None = None
        self._shown: Mark | None = None
        self._restarts = _Restarts()
        self._generation = -1

    def lines(self, answer: PollResult, now_s: float) -> list[str]:
        """Restarts, and a step when it is due."""
        said = [*self._restarts.new(answer.job), *self._resumed(answer.job)]
        lines = [_beside(self._node, self._width, text) for text in said]
        if not answer.progress:
            return lines
        now = Mark(slowest(answer.progress).step, now_s)
        self._start = self._start or now
        if self._shown is None or (now.step > self._shown.step and now_s - self._shown.seen_s >= self._every_s):
            lines.append(self._line(answer, now))
        return lines

    def last(self, answer: PollResult, now_s: float) -> list[str]:
        """The last step, if it was not shown."""
        if answer.progress and (self._shown is None or slowest(answer.progress).step > self._shown.step):
            return [self._line(answer, Mark(slowest(answer.progress).step, now_s))]
        return []

    def _resumed(self, job: JobState) -> list[str]:
        """From where the next generation goes on, said by every node."""
        if job.resumed_step is None or job.generation <= self._generation:
            return []
        self._generation = job.generation
        self._start = self._shown = None
        if not job.generation and not job.resumed_step:
            return []  # the first start of a run
        return [f"generation {job.generation} starts from step {job.resumed_step}"]

    def _line(self, answer: PollResult, now: Mark) -> str:
        self._shown = now
        total = slowest(answer.progress).total_steps
        left = time_left_s(self._start, now, total) if self._start else None
        return progress_line(self._node, answer.progress, left, self._width)


class ServedLines:
    """Of a served model: what died, what the tablets do, and on the API's node how serving goes."""

    def __init__(self, node: str, width: int, every_s: float) -> None:
        self._node, self._width = node, width
        self._restarts = _Restarts()
        self._serving = ServingLines(every_s)
        self._tablets = TabletLines()

    def lines(self, answer: PollResult, now_s: float) -> list[str]:
        """Restarts, changes of state with their reasons, and counts when they are due."""
        said = [line for note in answer.tablets for line in self._tablets.lines(note, now_s)]
        return self._told([*self._restarts.new(answer.job), *said], answer, now_s, last=False)

    def last(self, answer: PollResult, now_s: float) -> list[str]:
        """The last counts, if they were not shown."""
        return self._told([], answer, now_s, last=True)

    def _told(self, said: list[str], answer: PollResult, now_s: float, last: bool) -> list[str]:
        if answer.serving is not None:
            said = [*said, *self._serving.lines(answer.serving, now_s, last)]
        return [_beside(self._node, self._width, text) for text in said]


class _Restarts:
    """What died, said where it died."""

    def __init__(self) -> None:
        self._told = 0

    def new(self, job: JobState) -> list[str]:
        if job.restarts <= self._told:
            return []
        self._told = job.restarts
        return [f"{job.restart_reason}; starting again"] if job.restart_ours else []


def _beside(node: str, width: int, text: str) -> str:
    return f"{node:<{width}}  {text}"
