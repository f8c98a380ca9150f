"""One run's folder, for the endpoints: looked at when somebody asks, read on from where it was read last.

Safe from several threads; one at a time looks. Nothing that a cursor depends on lives here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.dashboard.answers import (
    EventsAnswer,
    Grouping,
    Level,
    LogsAnswer,
    RunAnswer,
    SeriesAnswer,
    SeriesName,
    StateAnswer,
    StopAnswer,
)
from smolcluster.dashboard.beside import clock_of, followed_of, mark_of, summary_in
from smolcluster.dashboard.columns import Columns
from smolcluster.dashboard.events import Happened
from smolcluster.dashboard.fixed import read_plan, run_answer, server_of
from smolcluster.dashboard.logs import Source, Wanted, page
from smolcluster.dashboard.now import state_answer
from smolcluster.dashboard.seen import Seen
from smolcluster.dashboard.series import FIGURES, RankColumns, all_have, lines_of, thin, unit_of
from smolcluster.dashboard.serving import serving_of
from smolcluster.dashboard.stopping import Others, Stopper
from smolcluster.jobs.types import ACTIVE_STATES, PollResult
from smolcluster.jobs.watching import Lookout, going_alone
from smolcluster.plan.types import Plan, ServePlan
from smolcluster.runtime.metricsfile import METRICS_SCHEMA
from smolcluster.runtime.runfolder import RunFolder

# Many pages look at one run.
FRESH_S = 0.5
# A node elsewhere is followed while it was heard of so lately.
_FOLLOWED_S = 60.0


class Reading:
    """`others`: who ends the run's parts elsewhere, None: it cannot be stopped from here at all. `attended`: whether
    somebody is at it who has not made its summary yet, whatever its nodes say: it is not over then. `fresh_s`: who
    asks again so soon gets the same answer.
    """

    def __init__(
        self,
        folder: RunFolder,
        others: Others | None = None,
        attended: Callable[[], bool] = lambda: False,
        fresh_s: float = FRESH_S,
    ) -> None:
        self._folder = folder
        self._fresh_s = fresh_s
        self._others = others
        self._attended = attended
        self._lock = threading.Lock()
        self._plan: Plan | ServePlan | None = None
        self._problem = ""
        self._lookout: Lookout | None = None
        self._ranks: list[RankColumns] = []
        self._machines: dict[str, Columns] = {}
        self._happened: Happened | None = None
        self._state: StateAnswer | None = None
        self._stated_at = 0.0

    def run(self) -> RunAnswer:
        """What does not change."""
        with self._lock:
            self._open()
            return run_answer(self._folder, self._plan, self._problem, self._others is not None)

    def state(self) -> StateAnswer:
        """How it is now."""
        with self._lock:
            return self._look()

    def series(
        self,
        name: SeriesName,
        by: Grouping | None,
        node: str | None,
        rank: int | None,
        between: tuple[int, int | None],
        points: int,
    ) -> SeriesAnswer:
        """A figure over the steps after the first of `between`, up to the second; None: to the last there is."""
        since_step, until_step = between
        with self._lock:
            state = self._look()
            by = by or ("rank" if rank is not None or name not in FIGURES else FIGURES[name].by)
            ranks = [
                one for one in self._ranks if (node is None or one.node == node) and (rank is None or one.rank == rank)
            ]
            server = server_of(self._plan) if self._plan is not None else None
            # Chosen ranks are a run of their own; of a star the server's steps are the run's.
            counted = ranks if server is None or len(ranks) < len(self._ranks) else ranks[:1]
            lines, ends = [], []
            timed = isinstance(self._plan, ServePlan)
            for line, steps, values, times in lines_of(name, by, ranks, counted, self._machines, timed):
                if timed:
                    steps = np.floor(steps - self._ahead(line.node))
                if until_step is not None:
                    steps, values, times = (each[steps <= until_step] for each in (steps, values, times))
                if len(steps):
                    ends.append((int(steps[-1]), float(times[-1]) - self._ahead(line.node)))
                new = steps > since_step
                kept = thin(steps[new], values[new], times[new], points)
                update = {
                    "steps": [int(step) for step in kept[0].tolist()],
                    "values": kept[1].tolist(),
                    "times": [moment - self._ahead(line.node) for moment in kept[2].tolist()],
                }
                lines.append(line.model_copy(update=update))
            last = max(since_step, all_have(ends))
            return SeriesAnswer(
                name=name, unit=unit_of(name), by=by, generation=state.generation, last_step=last, lines=lines
            )

    def events(self) -> EventsAnswer:
        """What happened."""
        with self._lock:
            state = self._look()
            if self._happened is None:
                return EventsAnswer(cursor="none", events=[])
            ahead = {node.node: node.clock_offset_s or 0.0 for node in state.nodes}
            slowest = (state.slowest.node, state.slowest.why) if state.slowest is not None else None
            return self._happened.answer(ahead, slowest)

    def logs(
        self,
        before: str,
        after: str,
        node: str | None,
        rank: int | None,
        level: Level | None,
        contains: str,
        limit: int,
    ) -> LogsAnswer:
        """A page of all logs together."""
        with self._lock:
            answer = self._open()
            sources = [
                source
                for name, ranks in answer.items()
                for source in (
                    Source(name, None, self._folder.supervisor_log(name), self._ahead(name)),
                    *(Source(name, one, self._folder.log(name, one), self._ahead(name)) for one in ranks),
                )
            ]
        return page(sources, before, after, Wanted(node, rank, level, contains), limit)

    def stop(self, confirm: str) -> StopAnswer:
        """Begin to end the run. ApiError 409 where that makes no sense, or cannot be done from here."""
        run_id = self._folder.path.name
        if self._others is None:
            raise ApiError(409, "a finished run cannot be stopped", code="over")
        if confirm != run_id:
            raise ApiError(409, f"this is the run {run_id}, not {confirm!r:.100}", param="confirm", code="another_run")
        with self._lock:
            self._stated_at = 0.0
            state = self._look()
            if state.over or self._plan is None:
                raise ApiError(409, f"the run {run_id} is over", code="over")
            active = [node.node for node in state.nodes if node.state in (*ACTIVE_STATES, "unknown")]
            followed = any(node.heard_s is not None and node.heard_s < _FOLLOWED_S for node in state.nodes)
            stopper = Stopper(self._folder, [node.node for node in state.nodes], self._others)
            return StopAnswer(run_id=run_id, nodes=stopper.stop(active, followed))

    def _open(self) -> dict[str, list[int]]:
        """Read the plan, if it could not be read before. The machines, and their ranks."""
        if self._plan is None:
            self._plan, self._problem = read_plan(self._folder)
            if self._plan is not None:
                self._lookout = Lookout(self._folder, self._plan.ranks)
                self._happened = Happened(self._folder, self._plan.ranks)
                self._ranks = [
                    RankColumns(rank.rank, rank.node, Columns(self._folder.metrics(rank.node, rank.rank)))
                    for rank in self._plan.ranks
                ]
                self._machines = {
                    node: Columns(self._folder.hardware(node)) for node in {rank.node for rank in self._plan.ranks}
                }
        if self._plan is None:
            return {node.name: node.ranks for node in run_answer(self._folder, None, "", False).nodes}
        names = dict.fromkeys(rank.node for rank in self._plan.ranks)
        return {name: [rank.rank for rank in self._plan.ranks if rank.node == name] for name in names}

    def _look(self) -> StateAnswer:
        if self._state is not None and time.monotonic() - self._stated_at < self._fresh_s:
            return self._state
        self._open()
        there = self._folder.path.is_dir()
        if self._plan is None or self._lookout is None:
            self._state = StateAnswer(
                cursor="no plan" if there else "gone",
                time=time.time(),
                state="lost" if there else "gone",
                reason=self._problem,
                over=True,
            )
        elif not there:
            before = self._state
            gone = {
                "cursor": "gone",
                "time": time.time(),
                "state": "gone",
                "over": True,
                "reason": f"{self._folder.path} is not there any more: what is shown is what was read of it before",
            }
            self._state = (before or StateAnswer(cursor="", time=0, state="gone", over=True)).model_copy(update=gone)
        else:
            self._state = self._answer(self._plan, self._lookout)
        self._stated_at = time.monotonic()
        return self._state

    def _answer(self, plan: Plan | ServePlan, lookout: Lookout) -> StateAnswer:
        now = time.time()
        look = lookout.look(now)
        # Of a run that goes on alone a summary tells how it was when it was collected.
        if look.alone or (look.over and not self._folder.summary.exists() and self._attended()):
            look = replace(look, over=False)
        for columns in (*(one.columns for one in self._ranks), *self._machines.values()):
            columns.refresh()
        summary = summary_in(self._folder)
        serving = serving_of(plan, look, summary) if isinstance(plan, ServePlan) else None
        return state_answer(
            Seen(
                now=now,
                plan=plan,
                look=look,
                ranks=self._ranks,
                machines=self._machines,
                followed={node: followed_of(self._folder, node, now) for node in look.nodes},
                summary=summary,
                serving=serving,
                started=self._started(look.nodes.values()),
                data=self._mark(),
                notes=self._notes(look.alone),
            )
        )

    def _ahead(self, node: str | None) -> float:
        return (clock_of(self._folder, node) or 0.0) if node is not None else 0.0

    def _started(self, answers: Iterable[PollResult | None]) -> float | None:
        """When the first supervisor began, by our clock; of a run without one, when its plan was written."""
        began = [
            answer.job.began - self._ahead(answer.job.node)
            for answer in answers
            if answer is not None and answer.job.began
        ]
        with contextlib.suppress(OSError):
            began = began or [self._folder.plan.stat().st_mtime]
        return min(began, default=None)

    def _mark(self) -> str:
        files = [one.columns.path for one in self._ranks] + [one.path for one in self._machines.values()]
        nodes = dict.fromkeys(one.node for one in self._ranks)
        files += [self._folder.log(one.node, one.rank) for one in self._ranks]
        files += [path for node in nodes for path in (self._folder.supervisor_log(node), self._folder.followed(node))]
        return mark_of(files)

    def _notes(self, alone: Sequence[str]) -> list[str]:
        """What is not whole, in words."""
        notes = []
        for columns in (*(one.columns for one in self._ranks), *self._machines.values()):
            name = columns.path.relative_to(self._folder.path).as_posix()
            if columns.damaged:
                lines = "line is" if columns.damaged == 1 else "lines are"
                notes.append(f"{name}: {columns.damaged} {lines} damaged, and left out")
            if columns.other_schema is not None:
                newer = columns.other_schema > METRICS_SCHEMA
                fix = "upgrade smolcluster" if newer else "look at it with the smolcluster that wrote it"
                what = f"is version {columns.other_schema}; this smolcluster reads version {METRICS_SCHEMA}"
                notes.append(f"{name} {what}: {fix}")
        if alone:
            notes.append(f"{going_alone(self._folder, alone)}, and this page shows it then")
        return notes
