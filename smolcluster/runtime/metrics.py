"""metrics.jsonl: one object a step, and what links and gradients look like now and then. Others follow it line by line.

A run of a hundred thousand steps must not leave a file that nobody can open. So when it has grown to MAX_LINES, every
second line of its older half goes: the file stays bounded, the recent past stays complete. Lines with a validation loss
are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from smolcluster.runtime.metricsfile import HardwareRecord, LinkRecord, MetricsRecord
from smolcluster.runtime.runfolder import write_atomic

if TYPE_CHECKING:
    from smolcluster.runtime.context import LinkState

MAX_LINES = 20_000
MOST_STEPS = 1 << 62


class MetricsWriter:
    """Appends records to a rank's metrics.jsonl. A context manager; the folder is made."""

    def __init__(self, path: Path, max_lines: int = MAX_LINES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._max_lines = max_lines
        self._lines = path.read_bytes().count(b"\n") if path.exists() else 0
        self._file = self._opened()

    def write(self, record: MetricsRecord | HardwareRecord) -> None:
        """Append one record; it can be read when this returns."""
        line = record.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"
        written = self._file.write(line)
        while written < len(line):  # a disk that is full takes a part, and says so of the rest
            written += self._file.write(line[written:])
        self._lines += 1
        if self._lines >= self._max_lines:
            self._thin()

    def write_links(self, step: int, links: Iterable[LinkState], node_of: Callable[[int], str]) -> None:
        """Append how each of this rank's links is at a step. `node_of`: the machine that holds a rank."""
        for link in links:
            self.write(
                LinkRecord(
                    step=step,
                    time=time.time(),
                    peer=link.peer,
                    node=node_of(link.peer),
                    address=link.address,
                    seconds=link.seconds,
                    bytes_out=link.bytes_out,
                    bytes_in=link.bytes_in,
                    mbps=link.mbps,
                    rtt_ms=link.rtt_ms,
                    rtt_by=link.rtt_by,
                    buffered=link.buffered,
                    unread=link.unread,
                )
            )

    def _thin(self) -> None:
        self._file.close()
        lines = self._path.read_bytes().split(b"\n")[:-1]
        half = len(lines) // 2
        kept = [line for index, line in enumerate(lines[:half]) if index % 2 or b'"val_loss"' in line] + lines[half:]
        write_atomic(self._path, b"\n".join(kept) + b"\n")
        self._lines = len(kept)
        self._file = self._opened()

    def _opened(self) -> FileIO:
        """Not buffered: a line is one call, and whoever follows the file sees whole ones."""
        return FileIO(self._path, "ab")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def cut_after(path: Path, step: int) -> None:
    """Take the lines of later steps out of a metrics.jsonl, if there is one: a run that goes on from `step` writes
    them again. A line that a crash cut short goes too.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    write_atomic(path, "".join(line + "\n" for line in kept))


def last_number(path: Path) -> int:
    """The step of the last whole line of a metrics.jsonl; 0 if there is none. A line that a crash cut short goes."""
    cut_after(path, MOST_STEPS)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0
