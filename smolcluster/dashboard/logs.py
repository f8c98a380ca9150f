"""GET /dashboard/logs: the logs of all machines as one, in order of time, in pages to both sides.

Nothing is kept: a cursor holds a position in every log, and a page is merged from there. So memory is bounded by a page
and what is read for it, and a cursor is good as long as the logs are.
"""

from __future__ import annotations

import heapq
import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import pydantic_core

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.dashboard.answers import Level, LogLine, LogsAnswer
from smolcluster.observe.loglines import stamped

_CHUNK_BYTES = 128 << 10
# For one page no more than so much is looked through, however seldom what is searched for may be.
MOST_BYTES = 16 << 20
_MOST_CHARACTERS = 2000
# A last line without an end is shown when nobody has gone on writing it for so long.
_TORN_S = 5.0
_LEVELS: tuple[Level, ...] = get_args(Level)
# Colours, for a terminal.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Source:
    """A log. `ahead_s`: how far its machine's clock is ahead of ours."""

    node: str
    rank: int | None
    path: Path
    ahead_s: float = 0.0

    @property
    def name(self) -> str:
        """What a cursor calls it."""
        return f"{self.node}/{'' if self.rank is None else self.rank}"


@dataclass(frozen=True)
class Wanted:
    """Which lines. `level`: this one and above."""

    node: str | None = None
    rank: int | None = None
    level: Level | None = None
    contains: str = ""

    def of(self, source: Source) -> bool:
        """Whether a log may have any."""
        return (self.node is None or self.node == source.node) and (self.rank is None or self.rank == source.rank)

    def has(self, line: _Line) -> bool:
        """Whether a line is one."""
        if self.level is not None and _LEVELS.index(line.loud) < _LEVELS.index(self.level):
            return False
        return not self.contains or self.contains.casefold() in line.shown.text.casefold()


class _Line(NamedTuple):
    """A line between two places of its file. `loud`: its level, or what it counts as without one."""

    begin: int
    end: int
    loud: Level
    shown: LogLine


class _Budget:
    """What one page may read; used up together by all logs."""

    def __init__(self) -> None:
        self.left = MOST_BYTES

    def read(self, path: Path, begin: int, end: int) -> bytes:
        """Bytes of a file; none where it cannot be read, or when all is used up."""
        if self.left <= 0:
            return b""
        try:
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(end - begin)
        except OSError:
            return b""
        self.left -= max(1, len(data))
        return data


def page(sources: Sequence[Source], before: str, after: str, wanted: Wanted, limit: int) -> LogsAnswer:
    """A page of lines: the newest, or those around a cursor. ApiError: the cursor is none of ours."""
    ends = {source.name: _end(source.path) for source in sources}
    if after:
        return _forwards(sources, _read_cursor(after, "after"), ends, after, wanted, limit)
    start = _read_cursor(before, "before") if before else ends
    return _backwards(sources, start, ends, before, wanted, limit)


def _forwards(
    sources: Sequence[Source],
    start: Mapping[str, int],
    ends: Mapping[str, int],
    cursor: str,
    wanted: Wanted,
    limit: int,
) -> LogsAnswer:
    at = {source.name: start.get(source.name, 0) for source in sources}
    # A log that is shorter than it was is another one.
    at = {name: position if position <= ends[name] else 0 for name, position in at.items()}
    budget = _Budget()
    lines: list[LogLine] = []
    for source in sources:
        if not wanted.of(source):
            at[source.name] = ends[source.name]
    streams = {source.name: _down(source, at[source.name], ends[source.name], budget) for source in sources}
    heap: list[tuple[float, int, _Line, str]] = []

    def advance(order: int, name: str) -> None:
        line = next(streams[name], None)
        if line is not None:
            heapq.heappush(heap, (line.shown.time or 0.0, order, line, name))
        elif budget.left > 0:
            at[name] = ends[name]

    names = [source.name for source in sources]
    for order, name in enumerate(names):
        advance(order, name)
    while heap and len(lines) < limit:
        _, order, line, name = heapq.heappop(heap)
        at[name] = line.end
        if wanted.has(line):
            lines.append(line.shown)
        advance(order, name)
    more = any(at[name] < ends[name] for name in names)
    return LogsAnswer(before=cursor, after=_cursor(at), older=any(start.values()), newer=more, lines=lines)


def _backwards(
    sources: Sequence[Source],
    start: Mapping[str, int],
    ends: Mapping[str, int],
    cursor: str,
    wanted: Wanted,
    limit: int,
) -> LogsAnswer:
    at = {source.name: min(start.get(source.name, 0), ends[source.name]) for source in sources}
    after = cursor or _cursor(at)
    budget = _Budget()
    lines: list[LogLine] = []
    chosen = [source for source in sources if wanted.of(source)]
    streams = {source.name: _up(source, at[source.name], budget) for source in chosen}
    heap: list[tuple[float, int, _Line, str]] = []

    def retreat(order: int, name: str) -> None:
        line = next(streams[name], None)
        if line is not None:
            heapq.heappush(heap, (-(line.shown.time or 0.0), -order, line, name))
        elif budget.left > 0:
            at[name] = 0

    for order, source in enumerate(chosen):
        retreat(order, source.name)
    while heap and len(lines) < limit:
        _, order, line, name = heapq.heappop(heap)
        at[name] = line.begin
        if wanted.has(line):
            lines.append(line.shown)
        retreat(-order, name)
    older = any(at[source.name] > 0 for source in chosen)
    return LogsAnswer(before=_cursor(at), after=after, older=older, newer=bool(cursor), lines=lines[::-1])


def _down(source: Source, begin: int, end: int, budget: _Budget) -> Iterator[_Line]:
    """Lines from a place on."""
    time_: float | None = None
    loud: Level = "INFO"
    first = True
    while begin < end:
        data = budget.read(source.path, begin, min(end, begin + _CHUNK_BYTES))
        if not data:
            return
        if first and stamped(data[:64].decode("utf-8", errors="replace").partition("\n")[0]) is None:
            time_, loud = _before(source, begin, budget)
        first = False
        if begin + len(data) < end and b"\n" in data:
            data = data[: data.rindex(b"\n") + 1]
        for line in _lines(source, data, begin, time_, loud):
            time_, loud = line.shown.time, line.loud
            yield line
        begin += len(data)


def _up(source: Source, end: int, budget: _Budget) -> Iterator[_Line]:
    """Lines before a place, the last one first."""
    size = _CHUNK_BYTES
    while end > 0:
        begin = max(0, end - size)
        data = budget.read(source.path, begin, end)
        if not data:
            return
        # The first line of a piece may be half of one, and those up to the first time belong to one that is before it.
        skipped = 0 if begin == 0 else data.find(b"\n") + 1
        lines = list(_lines(source, data[skipped:], begin + skipped, None, "INFO"))
        if begin > 0:
            known = next((index for index, line in enumerate(lines) if line.shown.time is not None), None)
            if known is None and size < 4 * _CHUNK_BYTES:
                size *= 2
                continue
            lines = lines[known or 0 :]
        if not lines:  # one line without an end that is longer than all that is looked at
            end, size = begin, _CHUNK_BYTES
            continue
        yield from reversed(lines)
        end, size = lines[0].begin, _CHUNK_BYTES


def _before(source: Source, place: int, budget: _Budget) -> tuple[float | None, Level]:
    """Time and level of the last line that has its own, before a place."""
    begin = max(0, place - _CHUNK_BYTES)
    data = budget.read(source.path, begin, place)
    last = next((line for line in reversed(list(_lines(source, data, begin, None, "INFO")))), None)
    return (last.shown.time, last.loud) if last is not None else (None, "INFO")


def _lines(source: Source, data: bytes, at: int, time_: float | None, loud: Level) -> Iterator[_Line]:
    """Those of a piece of a log that begins at a place; `time_` and `loud` are of the line before it."""
    pieces = data.split(b"\n")
    for index, raw in enumerate(pieces):
        begin, at = at, at + len(raw) + (index < len(pieces) - 1)
        # A progress bar rewrites its line with carriage returns: what stood there last is what a person saw.
        text = raw.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2]
        text = _ESCAPES.sub("", text).replace("\0", "\ufffd").rstrip()
        if not text:
            continue
        found = stamped(text)
        level: Level | None = None
        if found is not None:
            time_ = found.time - source.ahead_s if found.time is not None else time_
            level = next((one for one in _LEVELS if one == found.level), None)
            loud, text = level or "INFO", found.text
        shown = LogLine(
            id=f"{source.name}:{begin}",
            time=time_,
            node=source.node,
            rank=source.rank,
            level=level,
            text=text[:_MOST_CHARACTERS],
        )
        yield _Line(begin, at, loud, shown)


def _end(path: Path) -> int:
    """Where its last whole line ends."""
    try:
        stat = path.stat()
        with path.open("rb") as file:
            begin = max(0, stat.st_size - _CHUNK_BYTES)
            file.seek(begin)
            data = file.read(stat.st_size - begin)
    except OSError:
        return 0
    if time.time() - stat.st_mtime > _TORN_S or not data:
        return begin + len(data)
    return begin + data.rfind(b"\n") + 1


def _cursor(at: Mapping[str, int]) -> str:
    return urlsafe_b64encode(json.dumps(at, separators=(",", ":")).encode()).decode()


def _read_cursor(text: str, param: str) -> dict[str, int]:
    try:
        value = pydantic_core.from_json(urlsafe_b64decode(text.encode("ascii")))
    except ValueError:
        value = None
    places = list(value.values()) if isinstance(value, dict) else [None]
    if not all(type(place) is int and 0 <= place < 1 << 62 for place in places):
        raise ApiError(400, "this is no cursor of an earlier answer; ask without one", param=param, code="bad_cursor")
    return dict(value)
