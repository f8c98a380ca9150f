"""One rank's metrics.jsonl as columns of numbers, or one machine's hardware.jsonl, read on from where it grew.

One that is replaced as a whole (thinned, cut after a restart) is read anew. It trusts nothing in there: a damaged
line is counted and skipped, the last one may be half written.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydantic_core
from numpy.typing import NDArray
from pydantic import ValidationError

from smolcluster.runtime.growing import Growing
from smolcluster.runtime.metricsfile import METRICS_SCHEMA, StepRecord

Numbers = NDArray[np.float64]

# What is read at a time: a whole file of a million lines must not be in memory twice.
_CHUNK_BYTES = 4 << 20
# How long a rank computes and waits now is the mean of so many steps.
RECENT = 8
_STEPS = (
    "step",
    "time",
    "loss",
    "lr",
    "grad_norm",
    "tokens",
    "tokens_per_s",
    "step_s",
    "compute_s",
    "comm_s",
    "data_s",
    "bytes_out",
    "bytes_in",
    "staleness",
    "inner_steps",
    "val_loss",
    "val_accuracy",
)
_NEEDED = _STEPS[:10]
_AT = {name: index for index, name in enumerate(_STEPS)}
_OPTIONAL = {"data_s": 0.0, "staleness": 0.0, "inner_steps": 1.0}
_NAN = float("nan")


class Measured(NamedTuple):
    """A line that is no step: a link, or the machine, which knows of no steps. `values` are its other fields."""

    step: int | None
    time: float
    values: dict[str, Any]


class Columns:
    """Of one rank, or machine. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Growing(path)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._table: Numbers | None = None
        self._validation: dict[int, tuple[float, float]] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        # By peer, and of the machine (runtime/metricsfile.py): all that were measured, in order.
        self.links: defaultdict[int, list[Measured]] = defaultdict(list)
        self.machine: list[Measured] = []
        self.damaged = 0
        self.other_schema: int | None = None

    def refresh(self) -> bool:
        """Read what has come since; whether there was anything. A file that is gone leaves what was known of it."""
        any_line = False
        while True:
            lines, anew = self._file.read(_CHUNK_BYTES)
            if anew:
                self._clear()
            if not lines:
                return any_line
            any_line = self._take(lines) or any_line

    def column(self, name: str) -> Numbers:
        """A field of all steps, in order of steps; "val_loss" and "val_accuracy" are NaN where none was measured."""
        table = self._whole()
        return table[:, _AT[name]] if len(table) else np.empty(0)

    @property
    def count(self) -> int:
        """How many steps have a line."""
        return len(self._rows)

    @property
    def recent(self) -> list[StepRecord]:
        """The last few steps, whole records of this version."""
        found = []
        for record in self._recent:
            try:
                found.append(StepRecord.model_validate(record))
            except ValidationError:
                continue
        return found

    def _whole(self) -> Numbers:
        if self._table is None or len(self._table) != len(self._rows):
            self._table = np.array(self._rows, dtype=np.float64).reshape(len(self._rows), len(_STEPS))
            if self._validation and len(self._table):
                self._add_validation(self._table)
        return self._table

    def _add_validation(self, table: Numbers) -> None:
        """Losses that were told apart from their steps (a server's)."""
        steps = np.array(sorted(self._validation), dtype=np.float64)
        at = np.searchsorted(table[:, 0], steps)
        for step, index in zip(steps.tolist(), at.tolist(), strict=True):
            if index < len(table) and table[index, 0] == step:
                table[index, [_AT["val_loss"], _AT["val_accuracy"]]] = self._validation[int(step)]

    def _take(self, lines: Sequence[bytes]) -> bool:
        """Whether any of them had something in it."""
        lines = [line for line in lines if line]
        for record in _parsed(lines):
            if not isinstance(record, dict) or not self._keep(record):
                self.damaged += 1
        return bool(lines)

    def _keep(self, record: dict[str, Any]) -> bool:
        """Take a record in; False if it is damaged. One of a kind that is not known here is left out."""
        schema = record.get("schema", METRICS_SCHEMA)
        if schema != METRICS_SCHEMA:
            self.other_schema = schema if isinstance(schema, int) else -1
            return isinstance(schema, int)
        step, time = record.get("step"), record.get("time")
        if not isinstance(time, int | float):
            return False
        if record.get("kind") == "hardware":
            self.machine.append(Measured(None, float(time), record))
            return True
        if not isinstance(step, int):
            return False
        if "loss" in record:
            return self._keep_step(record)
        if "val_loss" in record:
            loss, accuracy = _number(record, "val_loss", _NAN), _number(record, "val_accuracy", _NAN)
            self._validation[step] = (loss, accuracy)
            self._table = None
        elif isinstance(record.get("peer"), int):
            self.links[record["peer"]].append(Measured(step, float(time), record))
        return True

    def _keep_step(self, record: dict[str, Any]) -> bool:
        try:
            row = tuple([float(record[name]) for name in _NEEDED] + [_optional(record, name) for name in _STEPS[10:]])
        except (KeyError, TypeError, ValueError):
            return False
        # Ranks that were started again may take steps a second time.
        while self._rows and self._rows[-1][0] >= row[0]:
            self._rows.pop()
            self._table = None
        self._rows.append(row)
        self._recent.append(record)
        return True


def _parsed(lines: list[bytes]) -> Iterable[Any]:
    """The JSON value of each line, None where it is none. Nearly always all are whole: these are parsed in one go."""
    try:
        values = pydantic_core.from_json(b"[" + b",".join(lines) + b"]", allow_inf_nan=True, cache_strings="keys")
        if len(values) == len(lines):
            return list(values)
    except ValueError:
        pass
    return [_one(line) for line in lines]


def _one(line: bytes) -> Any:
    try:
        return pydantic_core.from_json(line)
    except ValueError:
        return None


def _number(record: dict[str, Any], name: str, otherwise: float) -> float:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else otherwise


def _optional(record: dict[str, Any], name: str) -> float:
    return _number(record, name, _OPTIONAL.get(name, _NAN))
