"""The records of a run, read by somebody who trusts nothing in them: versions checked, damage noted and skipped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from smolcluster.errors import InputError, Problem
from smolcluster.plan.types import PLAN_SCHEMA, Plan
from smolcluster.runtime.runfolder import (
    JOB_SCHEMA,
    METRICS_SCHEMA,
    RESULT_SCHEMA,
    GradientRecord,
    JobState,
    LinkRecord,
    RankResult,
    StepRecord,
)

Record = TypeVar("Record", bound=BaseModel)


class Records(NamedTuple):
    """What a rank's metrics.jsonl holds, by kind."""

    steps: tuple[StepRecord, ...]
    links: tuple[LinkRecord, ...]
    gradients: tuple[GradientRecord, ...]


@dataclass
class Reader:
    """Reads the files of one run and collects what was skipped in `notes`."""

    notes: list[str] = field(default_factory=list)

    def plan(self, path: Path) -> Plan | None:
        """plan.json; None when it is missing or damaged, without a note: whoever needs it says so."""
        value = _object(path)
        return _checked(Plan, value, path, PLAN_SCHEMA) if value is not None else None

    def result(self, path: Path) -> RankResult | None:
        """result.json; None when there is none, or none that is whole."""
        return self._whole(RankResult, path, RESULT_SCHEMA)

    def job(self, path: Path) -> JobState | None:
        """job.json; None when there is none, or none that is whole."""
        return self._whole(JobState, path, JOB_SCHEMA)

    def metrics(self, path: Path) -> Records:
        """The records of metrics.jsonl, in order; damaged lines are skipped with one note for the file."""
        steps: list[StepRecord] = []
        links: list[LinkRecord] = []
        gradients: list[GradientRecord] = []
        damaged: list[int] = []
        for number, line in enumerate(_lines(path), 1):
            record = _record(line, path, number)
            if isinstance(record, StepRecord):
                steps.append(record)
            elif isinstance(record, LinkRecord):
                links.append(record)
            elif isinstance(record, GradientRecord):
                gradients.append(record)
            else:
                damaged.append(number)
        if damaged:
            which = ", ".join(map(str, damaged[:5])) + (" and more" if len(damaged) > 5 else "")
            noun = "line" if len(damaged) == 1 else "lines"
            self.notes.append(f"{path}: {len(damaged)} damaged {noun} skipped ({noun} {which})")
        return Records(tuple(steps), tuple(links), tuple(gradients))

    def _whole(self, model: type[Record], path: Path, schema: int) -> Record | None:
        if not path.exists():
            return None
        value = _object(path)
        record = _checked(model, value, path, schema) if value is not None else None
        if record is None:
            self.notes.append(f"{path}: is damaged, and was skipped")
        return record


def _record(line: str, path: Path, number: int) -> StepRecord | LinkRecord | GradientRecord | None:
    """The record of a line; None when it is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if "peer" in value:
        return _checked(LinkRecord, value, path, METRICS_SCHEMA, number)
    if "norms" in value:
        return _checked(GradientRecord, value, path, METRICS_SCHEMA, number)
    return _checked(StepRecord, value, path, METRICS_SCHEMA, number)


def _checked(model: type[Record], value: dict[str, object], path: Path, schema: int, line: int = 0) -> Record | None:
    """The record in an object; None when it is damaged. InputError when it is of a version that is not known here."""
    found = value.get("schema", schema)
    if isinstance(found, int) and found != schema:
        what = f"is version {found}; this smolcluster reads version {schema}"
        newer = "upgrade smolcluster: a newer one wrote this run"
        older = "read it with the smolcluster that wrote it: an older one"
        raise InputError([Problem(str(path), line, "schema", what, newer if found > schema else older)])
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError:
        return None


def _object(path: Path) -> dict[str, object] | None:
    """The object in a JSON file; None when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> list[str]:
    """The lines of a file; none when it cannot be read. Bytes that are no text damage their line alone."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.split("\n") if line]
