"""The records of a metrics.jsonl that is being written: each look gives what is new, and nothing twice.

A file that is replaced is read from its beginning, and what was given before is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from smolcluster.observe.records import record_of
from smolcluster.runtime.growing import Growing
from smolcluster.runtime.metricsfile import LinkRecord, MetricsRecord, StepRecord


class Arrivals:
    """One file. `again`: the first and the last step that a restarted rank took a second time, None before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = Growing(path)
        self._line = 0
        self._last: dict[object, int] = {}
        self.again: tuple[int, int] | None = None

    def look(self) -> list[MetricsRecord]:
        """The records that were appended since the last look, in order; none while there is no file.

        InputError when they are of another version. A line without an end is left to the next look.
        """
        lines, anew = self._file.read()
        if anew:
            self._line = 0
        records = self._records(lines)
        if anew:
            self._note_again(records)
        return [record for record in records if self._is_new(record)]

    def _records(self, lines: Iterable[bytes]) -> list[MetricsRecord]:
        records = []
        for line in lines:
            self._line += 1
            record = record_of(line.decode("utf-8", errors="replace"), self._path, self._line) if line else None
            if record is not None:  # what is damaged, the report tells
                records.append(record)
        return records

    def _note_again(self, records: list[MetricsRecord]) -> None:
        given = self._last.get(StepRecord, 0)
        left = max((record.step for record in records if isinstance(record, StepRecord)), default=0)
        if left < given:
            first = min(left, self.again[0] - 1) if self.again is not None else left
            self.again = (first + 1, given)

    def _is_new(self, record: MetricsRecord) -> bool:
        kind = (LinkRecord, record.peer) if isinstance(record, LinkRecord) else type(record)
        if record.step <= self._last.get(kind, 0):
            return False
        self._last[kind] = record.step
        return True
