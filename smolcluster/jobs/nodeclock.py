"""How far a node's clock is off, as the answers of its polls show while a run is followed."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from smolcluster.provision.clocks import bounds, overlap
from smolcluster.runtime.runfolder import ClockNote, write_atomic

# What the last so many answers agree on counts.
_ANSWERS = 40


class NodeClock:
    """One node's, noted in `file` of the controller's run folder, where the dashboard puts log lines in order by it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._bounds: deque[tuple[float, float]] = deque(maxlen=_ANSWERS)
        self._noted: ClockNote | None = None

    def answered(self, asked: float, told: float, heard: float) -> None:
        """The node told its time between two of ours, all seconds since 1970."""
        self._bounds.append(bounds(asked, told, heard))

    def keep(self) -> None:
        """Note it, when it is known anew. OSError."""
        if not self._bounds:
            return
        offset_s, within_s = overlap(list(self._bounds))
        note = ClockNote(offset_s=round(offset_s, 3), within_s=round(within_s, 3))
        if note != self._noted:
            self._noted = note
            write_atomic(self._file, note.model_dump_json(by_alias=True) + "\n")
