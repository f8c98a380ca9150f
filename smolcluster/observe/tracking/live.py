"""A run told to a tracker while it goes on, from the records that arrive in its folder. No rank knows of it.

Nothing is told twice: a step that a restarted rank takes again keeps its first values, and that is said at the end. Of
steps that come faster than a picture can show, every so many are told, those with more in them always.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from smolcluster.observe.tracking.arrivals import Arrivals
from smolcluster.observe.tracking.rows import Rows
from smolcluster.observe.tracking.sink import About, Opens, Sink, facts_of
from smolcluster.plan.profile import tokens_per_sample
from smolcluster.plan.types import Plan
from smolcluster.runtime.metricsfile import MetricsRecord, StepRecord
from smolcluster.runtime.runfolder import RunFolder, Summary

# Of one rank in one look. Looks are seconds apart.
MOST_STEPS = 50


class Live:
    """A context manager: leaving it without `finish` leaves a run that did not end. The sink is opened by the first
    record, so a run that never starts is none. TrackerError, InputError.
    """

    def __init__(self, folder: RunFolder, plan: Plan, about: About, opens: Opens) -> None:
        self._about = about
        self._opens = opens
        self._files = {rank.rank: Arrivals(folder.metrics(rank.node, rank.rank)) for rank in plan.ranks}
        star = any(rank.role == "server" for rank in plan.ranks)
        counted = frozenset(list(self._files)[:1] if star else self._files)
        self._rows = Rows(counted, float(plan.global_batch * tokens_per_sample(plan.run.model)))
        self._sink: Sink | None = None
        self._stack = ExitStack()

    def look(self, all_steps: bool = False) -> int:
        """Tell what has come since the last look; gives how many rows that were. `all_steps`: leave none out."""
        for rank, file in self._files.items():
            records = file.look()
            for record in records if all_steps else _fewer(records):
                self._rows.add(rank, record)
        return self._tell(last=False)

    def finish(self, summary: Summary) -> str:
        """Tell the rest, and how the run ended; gives where it can be seen."""
        self.look(all_steps=True)
        self._tell(last=True)
        sink = self._opened()
        said = sink.finish(facts_of(summary))
        again = [file.again for file in self._files.values() if file.again is not None]
        if again:
            first, last = min(first for first, _ in again), max(last for _, last in again)
            said += f"\nsteps {first} to {last} were taken again after a restart; there they have their first values"
        return said

    def _tell(self, last: bool) -> int:
        rows = self._rows.rest() if last else self._rows.take()
        if rows:
            sink = self._opened()
            for row in rows:
                sink.write(row)
            sink.flush()
        return len(rows)

    def _opened(self) -> Sink:
        if self._sink is None:
            self._about.folder.mkdir(parents=True, exist_ok=True)
            self._sink = self._stack.enter_context(self._opens(self._about))
        return self._sink

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.__exit__(*raised)  # type: ignore[arg-type]


def _fewer(records: Sequence[MetricsRecord]) -> list[MetricsRecord]:
    """All where they are few. Chosen by the step, so that all ranks keep the same ones."""
    steps = sum(isinstance(record, StepRecord) for record in records)
    every = 1
    while steps > every * MOST_STEPS:
        every *= 2
    return [
        record
        for record in records
        if not isinstance(record, StepRecord) or record.step % every == 0 or record.val_loss is not None
    ]
