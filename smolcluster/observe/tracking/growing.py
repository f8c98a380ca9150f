"""A metrics.jsonl that is being written, read as it grows: each look gives what is new, and nothing twice.

The file is replaced when its writer thins it, when a restarted rank cuts off steps that it takes again, and when a
playbook brings home another machine's. It is then read from its beginning, and what was given before is left out.
"""

from __future__ import annotations

from pathlib import Path

from smolcluster.observe.records import record_of
from smolcluster.runtime.metricsfile import LinkRecord, MetricsRecord, StepRecord

# The file is the one that was read if it still has these bytes there: an inode may be given again, a size be reached.
_KNOWN_BY = 200


class Growing:
    """One file. `again`: the first and the last step that a restarted rank took a second time, None before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._before = b""
        self._line = 0
        self._last: dict[object, int] = {}
        self.again: tuple[int, int] | None = None

    def look(self) -> list[MetricsRecord]:
        """The records that were appended since the last look, in order; none while there is no file.

        InputError when they are of another version. A line without an end is left to the next look.
        """
        try:
            file = self._path.open("rb")
        except OSError:
            return []
        with file:
            file.seek(self._offset - len(self._before))
            replaced = file.read(len(self._before)) != self._before
            if replaced:
                self._offset = self._line = 0
                file.seek(0)
            whole, end, _ = file.read().rpartition(b"\n")
        if end:
            self._offset += len(whole) + 1
            self._before = (whole + end)[-_KNOWN_BY:]
        elif replaced:
            self._before = b""
        records = self._records(whole)
        if replaced:
            self._note_again(records)
        return [record for record in records if self._is_new(record)]

    def _records(self, text: bytes) -> list[MetricsRecord]:
        records = []
        for line in text.decode("utf-8", errors="replace").split("\n"):
            self._line += 1
            record = record_of(line, self._path, self._line) if line else None
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
