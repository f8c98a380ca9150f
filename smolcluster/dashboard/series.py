"""GET /dashboard/series: figures over steps, as curves that a screen can draw. Pure: from columns to points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from smolcluster.dashboard.answers import Grouping, SeriesLine, SeriesName
from smolcluster.dashboard.columns import Columns, Measured, Numbers

Combine = Literal["sum", "mean", "max"]


# What a machine elsewhere has measured comes some seconds later. Of one that is further behind nothing is waited for.
LATE_S = 60.0


@dataclass(frozen=True)
class Figure:
    """How a figure is had from a rank's steps, and what that of several ranks together is."""

    unit: str
    value: Callable[[Columns], Numbers]
    by: Grouping = "rank"
    combine: Combine = "mean"


def _plain(name: str) -> Callable[[Columns], Numbers]:
    return lambda columns: columns.column(name)


def _each(name: str, scale: float = 1.0) -> Callable[[Columns], Numbers]:
    """Of one step, where a line is of several."""
    return lambda columns: columns.column(name) / np.maximum(columns.column("inner_steps"), 1.0) * scale


FIGURES: Mapping[SeriesName, Figure] = {
    "loss": Figure("nats", _plain("loss"), by="run"),
    "val_loss": Figure("nats", _plain("val_loss"), by="run"),
    "val_accuracy": Figure("share", _plain("val_accuracy"), by="run"),
    "lr": Figure("", _plain("lr"), by="run"),
    "grad_norm": Figure("", _plain("grad_norm"), by="run"),
    "tokens_per_s": Figure("1/s", _plain("tokens_per_s"), combine="sum"),
    "step_ms": Figure("ms", _each("step_s", 1000.0)),
    "compute_ms": Figure("ms", _each("compute_s", 1000.0)),
    "communication_ms": Figure("ms", _each("comm_s", 1000.0)),
    "waiting_ms": Figure("ms", _each("comm_s", 1000.0)),
    "data_ms": Figure("ms", _each("data_s", 1000.0)),
    "bytes_sent": Figure("B", _each("bytes_out"), combine="sum"),
    "bytes_received": Figure("B", _each("bytes_in"), combine="sum"),
    "staleness": Figure("steps", _plain("staleness"), combine="max"),
}
_COMBINED: Mapping[Combine, Callable[[Numbers], Numbers]] = {
    "sum": lambda table: table.sum(axis=0),
    "mean": lambda table: table.mean(axis=0),
    "max": lambda table: table.max(axis=0),
}
# What a rank waits is for bytes as long as the one that waits least does, and for others to be ready beyond that.
SPLIT = ("communication_ms", "waiting_ms")
# From lines that are no steps: of the machine, and of links.
MACHINE: Mapping[SeriesName, tuple[str, Callable[[Mapping[str, Any]], float | None]]] = {
    "memory_mb": ("MB", lambda values: ranks_mb(values)),
    "cpu_percent": ("%", lambda values: _scaled(values.get("cpu"), 100.0)),
    "temperature_c": ("°C", lambda values: _scaled(values.get("temperature_c"), 1.0)),
}
LINK: Mapping[SeriesName, tuple[str, str]] = {"link_mbps": ("Mbit/s", "mbps"), "link_rtt_ms": ("ms", "rtt_ms")}


def ranks_mb(values: Mapping[str, Any]) -> float | None:
    """Resident memory of a machine's ranks together, from a HardwareRecord; None where it does not tell."""
    each = values.get("rss_mb")
    known = [mb for mb in each.values() if isinstance(mb, int | float)] if isinstance(each, dict) else []
    return float(sum(known)) if known else None


def unit_of(name: SeriesName) -> str:
    """What its values are in."""
    return FIGURES[name].unit if name in FIGURES else (MACHINE.get(name) or LINK[name])[0]


@dataclass(frozen=True)
class RankColumns:
    """A rank's columns, and whose they are."""

    rank: int
    node: str
    columns: Columns


def lines_of(
    name: SeriesName,
    by: Grouping,
    ranks: Sequence[RankColumns],
    counted: Sequence[RankColumns],
    machines: Mapping[str, Columns],
    timed: bool = False,
) -> list[tuple[SeriesLine, Numbers, Numbers, Numbers]]:
    """Each curve, empty, with its steps, values and times, whole. `timed`: there are no steps, times stand for them.

    `counted` are the ranks whose steps are the run's: of a star the server alone. The whole run's loss is the one that
    was recorded the most of. `machines`: what was seen of each; its steps are those that its first rank was at then.
    """
    if name in MACHINE:
        first = {one.node: one for one in reversed(ranks)}
        value = MACHINE[name][1]
        return [_machine(one, machines[node].machine, value, timed) for node, one in sorted(first.items())]
    if name in LINK:
        field = LINK[name][1]
        return [
            _link(one, found, peer, field, timed) for one in ranks for peer, found in sorted(one.columns.links.items())
        ]
    figure = FIGURES[name]
    if by == "run" and figure.by == "run":
        longest = max(counted, key=lambda one: one.columns.count, default=None)
        chosen = [] if longest is None else [(SeriesLine(label=name, steps=[], values=[], times=[]), [longest])]
    elif by == "run":
        chosen = [(SeriesLine(label="all", steps=[], values=[], times=[]), list(counted))]
    elif by == "node":
        names = dict.fromkeys(one.node for one in ranks)
        chosen = [
            (
                SeriesLine(label=node, node=node, steps=[], values=[], times=[]),
                [one for one in ranks if one.node == node],
            )
            for node in names
        ]
    else:
        chosen = [
            (
                SeriesLine(
                    label=f"{one.node} (rank {one.rank})", node=one.node, rank=one.rank, steps=[], values=[], times=[]
                ),
                [one],
            )
            for one in ranks
        ]
    split = _least_wait(counted) if name in SPLIT else None
    return [(line, *_together(name, figure, group, split)) for line, group in chosen if group]


def thin(steps: Numbers, values: Numbers, times: Numbers, most: int) -> tuple[Numbers, Numbers, Numbers]:
    """At most about `most` points: of each stretch its lowest and highest, and the first and last of all."""
    if len(steps) <= most:
        return steps, values, times
    width = -(-len(steps) // max(1, most // 2))
    padded = np.pad(values, (0, -len(values) % width), mode="edge").reshape(-1, width)
    starts = np.arange(len(padded)) * width
    kept = np.concatenate([starts + padded.argmin(axis=1), starts + padded.argmax(axis=1), [0, len(steps) - 1]])
    kept = np.unique(np.minimum(kept, len(steps) - 1))
    return steps[kept], values[kept], times[kept]


def all_have(ends: Sequence[tuple[int, float]]) -> int:
    """The step up to which all curves have come, of the last step of each and when that was; 0 where there is none.

    Who asks on from there misses nothing of those that are a little behind.
    """
    newest = max((time for _, time in ends), default=0.0)
    return min((step for step, time in ends if newest - time < LATE_S), default=0)


def _machine(
    one: RankColumns, found: Sequence[Measured], value: Callable[[Mapping[str, Any]], float | None], timed: bool
) -> tuple[SeriesLine, Numbers, Numbers, Numbers]:
    line = SeriesLine(label=one.node, node=one.node, steps=[], values=[], times=[])
    rows = [(each.time, known) for each in found for known in [value(each.values)] if known is not None]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 2)
    if timed:
        return line, table[:, 0], table[:, 1], table[:, 0]
    steps, times = one.columns.column("step"), one.columns.column("time")
    if not len(steps) or not len(table):
        return line, np.empty(0), np.empty(0), np.empty(0)
    at = np.searchsorted(times, table[:, 0], side="right")
    return line, np.concatenate([[0.0], steps])[at], table[:, 1], table[:, 0]


def _link(
    one: RankColumns, found: Sequence[Measured], peer: int, field: str, timed: bool
) -> tuple[SeriesLine, Numbers, Numbers, Numbers]:
    rows = [
        (float(each.step or 0), known, each.time)
        for each in found
        for known in [_scaled(each.values.get(field), 1.0)]
        if known is not None
    ]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 3)
    label = f"{one.rank} to {peer}"
    line = SeriesLine(label=label, node=one.node, rank=one.rank, peer=peer, steps=[], values=[], times=[])
    return line, table[:, 2 if timed else 0], table[:, 1], table[:, 2]


def _scaled(value: object, by: float) -> float | None:
    return float(value) * by if isinstance(value, int | float) and math.isfinite(value) else None


def _together(
    name: SeriesName, figure: Figure, group: Sequence[RankColumns], split: tuple[Numbers, Numbers] | None
) -> tuple[Numbers, Numbers, Numbers]:
    """One curve of several ranks, over the steps that all of them recorded."""
    group = [one for one in group if one.columns.count]
    if not group:
        return np.empty(0), np.empty(0), np.empty(0)
    steps = group[0].columns.column("step")
    for one in group[1:]:
        steps = np.intersect1d(steps, one.columns.column("step"), assume_unique=True)
    rows = []
    for one in group:
        own = one.columns.column("step")
        values = figure.value(one.columns)
        if name in SPLIT:
            least = values if split is None else _at(split, own, values)
            values = least if name == "communication_ms" else values - least
        rows.append(values[np.searchsorted(own, steps)])
    times = group[0].columns.column("time")[np.searchsorted(group[0].columns.column("step"), steps)]
    table = np.stack(rows)
    values = _COMBINED[figure.combine](table)
    known = np.isfinite(values)
    return steps[known], values[known], times[known]


def _least_wait(counted: Sequence[RankColumns]) -> tuple[Numbers, Numbers] | None:
    """By step, how long the rank waited that waited least, in ms: nobody's fault but the wires'.

    None where ranks do not wait for each other in the same steps.
    """
    waiting = [one for one in counted if one.columns.count]
    if len(waiting) < 2:
        return None
    steps = np.concatenate([one.columns.column("step") for one in waiting])
    waits = np.concatenate([FIGURES["communication_ms"].value(one.columns) for one in waiting])
    found, where, counts = np.unique(steps, return_inverse=True, return_counts=True)
    least = np.full(len(found), np.inf)
    np.minimum.at(least, where, waits)
    return found[counts > 1], least[counts > 1]


def _at(split: tuple[Numbers, Numbers], steps: Numbers, otherwise: Numbers) -> Numbers:
    """The least wait at those steps; where only one rank recorded a step, its own."""
    known, least = split
    if not len(known):
        return otherwise
    at = np.minimum(np.searchsorted(known, steps), len(known) - 1)
    return np.where(known[at] == steps, least[at], otherwise)
