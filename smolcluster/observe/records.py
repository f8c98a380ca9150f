"""The records of a run, read by somebody who trusts nothing in them: versions checked, damage noted and skipped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from smolcluster.errors import InputError, Problem
from smolcluster.plan.types import KINDS, PLAN_SCHEMA, Plan, ServePlan
from smolcluster.runtime.metricsfile import (
    METRICS_SCHEMA,
    GradientRecord,
    LinkRecord,
    MetricsRecord,
    StepRecord,
    ValidationRecord,
)
from smolcluster.runtime.pacenote import PACE_SCHEMA, RankPace
from smolcluster.runtime.runfolder import JOB_SCHEMA, RESULT_SCHEMA, SERVING_SCHEMA, JobState, RankResult, RequestRecord

Record = TypeVar("Record", bound=BaseModel)

# Lines that are parsed in one call: more cost memory and save no time.
_BLOCK = 200


class Records(NamedTuple):
    """What a rank's metrics.jsonl holds, by kind."""

    steps: tuple[StepRecord, ...]
    links: tuple[LinkRecord, ...]
    gradients: tuple[GradientRecord, ...]


@dataclass
class Reader:
    """Reads the files of one run and collects what was skipped in `notes`."""

    notes: list[str] = field(default_factory=list)

    def plan(self, path: Path) -> Plan | ServePlan | None:
        """plan.json; None when it is missing or damaged, without a note: whoever needs it says so."""
        value = _object(path)
        if value is None:
            return None
        return _checked(KINDS.get(str(value.get("kind")), Plan), value, path, PLAN_SCHEMA)

    def result(self, path: Path) -> RankResult | None:
        """result.json; None when there is none, or none that is whole."""
        return self._whole(RankResult, path, RESULT_SCHEMA)

    def pace(self, path: Path) -> RankPace | None:
        """pace.json; None when there is none, or none that is whole."""
        return self._whole(RankPace, path, PACE_SCHEMA)

    def job(self, path: Path) -> JobState | None:
        """job.json; None when there is none, or none that is whole."""
        return self._whole(JobState, path, JOB_SCHEMA)

    def metrics(self, path: Path) -> Records:
        """The records of metrics.jsonl, in order; damaged lines are skipped with one note for the file."""
        steps: list[StepRecord] = []
        links: list[LinkRecord] = []
        gradients: list[GradientRecord] = []
        measured: dict[int, ValidationRecord] = {}
        damaged: list[int] = []
        for number, record in _numbered(path):
            if isinstance(record, StepRecord):
                steps.append(record)
            elif isinstance(record, LinkRecord):
                links.append(record)
            elif isinstance(record, ValidationRecord):
                measured[record.step] = record
            elif isinstance(record, GradientRecord):
                gradients.append(record)
            else:
                damaged.append(number)
        self._skipped(path, damaged)
        return Records(tuple(_with_validation(steps, measured)), tuple(links), tuple(gradients))

    def requests(self, path: Path) -> tuple[RequestRecord, ...]:
        """The records of requests.jsonl, in order; damaged lines as for metrics."""
        values = [(number, _parsed(line)) for number, line in enumerate(_lines(path), 1)]
        records = [
            (number, _checked(RequestRecord, value, path, SERVING_SCHEMA, number) if value is not None else None)
            for number, value in values
        ]
        self._skipped(path, [number for number, record in records if record is None])
        return tuple(record for _, record in records if record is not None)

    def _skipped(self, path: Path, damaged: list[int]) -> None:
        """One note for the damaged lines of a file."""
        if damaged:
            which = ", ".join(map(str, damaged[:5])) + (" and more" if len(damaged) > 5 else "")
            noun = "line" if len(damaged) == 1 else "lines"
            self.notes.append(f"{path}: {len(damaged)} damaged {noun} skipped ({noun} {which})")

    def _whole(self, model: type[Record], path: Path, schema: int) -> Record | None:
        if not path.exists():
            return None
        value = _object(path)
        record = _checked(model, value, path, schema) if value is not None else None
        if record is None:
            self.notes.append(f"{path}: is damaged, and was skipped")
        return record


def _numbered(path: Path) -> Iterator[tuple[int, MetricsRecord | None]]:
    """The records of a metrics.jsonl with the numbers of their lines; None for one that is none.

    Nearly all lines are whole steps of this version: many of them are parsed in one call, which takes half the time,
    and one by one only where that fails.
    """
    block: list[str] = []
    number = 0
    for number, line in enumerate(_lines(path), 1):
        if _seems_step(line):
            block.append(line)
            if len(block) < _BLOCK:
                continue
            yield from _block(block, path, number)
            block = []
            continue
        yield from _block(block, path, number - 1)
        block = []
        yield number, record_of(line, path, number)
    yield from _block(block, path, number)


def _block(lines: list[str], path: Path, last: int) -> Iterator[tuple[int, MetricsRecord | None]]:
    """The records of these lines, of which the last one has that number."""
    first = last - len(lines) + 1
    with contextlib.suppress(ValidationError):
        found = _steps().validate_json(f"[{','.join(lines)}]")
        if len(found) == len(lines) and all(record.schema_ == METRICS_SCHEMA for record in found):
            yield from enumerate(found, first)
            return
    for number, line in enumerate(lines, first):
        yield number, record_of(line, path, number)


def _seems_step(line: str) -> bool:
    return '"loss":' in line and '"norms":' not in line


@cache
def _steps() -> TypeAdapter[list[StepRecord]]:
    return TypeAdapter(list[StepRecord])


def _with_validation(steps: Iterable[StepRecord], measured: Mapping[int, ValidationRecord]) -> Iterator[StepRecord]:
    """The steps, with the validation losses that were told apart from them."""
    for record in steps:
        found = measured.get(record.step)
        if found is not None:
            record = record.model_copy(update={"val_loss": found.val_loss, "val_accuracy": found.val_accuracy})
        yield record


def record_of(line: str, path: Path, number: int) -> MetricsRecord | None:
    """The record in a line of metrics.jsonl; None when it is none. InputError when it is of another version.

    Nearly all are whole steps of this version: these are parsed once.
    """
    if _seems_step(line):
        with contextlib.suppress(ValidationError):
            step = StepRecord.model_validate_json(line)
            if step.schema_ == METRICS_SCHEMA:
                return step
    value = _parsed(line)
    if value is None:
        return None
    return _checked(_kind_of(value), value, path, METRICS_SCHEMA, number, line)


def _kind_of(value: Mapping[str, object]) -> type[MetricsRecord]:
    if "peer" in value:
        return LinkRecord
    if "norms" in value:
        return GradientRecord
    return ValidationRecord if "loss" not in value and "val_loss" in value else StepRecord


def _checked(
    model: type[Record], value: dict[str, object], path: Path, schema: int, line: int = 0, text: str | None = None
) -> Record | None:
    """The record in an object; None when it is damaged. InputError when it is of a version that is not known here.

    `text`: what the object was parsed from, where that is at hand.
    """
    found = value.get("schema", schema)
    if isinstance(found, int) and found != schema:
        what = f"is version {found}; this smolcluster reads version {schema}"
        newer = "upgrade smolcluster: a newer one wrote this run"
        older = "read it with the smolcluster that wrote it: an older one"
        raise InputError([Problem(str(path), line, "schema", what, newer if found > schema else older)])
    try:
        return model.model_validate_json(json.dumps(value) if text is None else text)
    except ValidationError:
        return None


def _object(path: Path) -> dict[str, object] | None:
    """The object in a JSON file; None when there is none."""
    try:
        return _parsed(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _parsed(text: str) -> dict[str, object] | None:
    """The object that a text is in JSON; None when it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # the latter of ten thousand brackets
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> list[str]:
    """The lines of a file; none when it cannot be read. Bytes that are no text damage their line alone."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.split("\n") if line]
