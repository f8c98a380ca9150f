"""What `simulate` found, as tables: all machines together by strategy, and how each strategy grows with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smolcluster.plan.paper import Owned, Scaled, stops_paying, with_machines
from smolcluster.plan.profile import tokens_per_sample
from smolcluster.spec.problems import listed
from smolcluster.spec.run import RunSpec


def tables(
    lines: Mapping[str, Sequence[Scaled]], owned: Sequence[Owned], sources: Mapping[str, str], run: RunSpec
) -> list[RenderableType]:
    """Tables and what has to be said with them."""
    unit = "tokens/s" if tokens_per_sample(run.model) > 1 else "samples/s"
    machines = ", ".join(f"{one.count} x {one.name}" for one in owned)
    growth = f"{unit} by number of machines, the fastest first"
    # As text of their own: a table's title is broken to the table's width.
    parts: list[RenderableType] = [Text(machines, style="italic"), _whole(lines, unit)]
    parts += [Text(growth, style="italic"), _growth(lines)]
    parts += [Text(line) for line in [*_endings(lines), *bound_note(lines)]]
    best = max((line[-1].forecast.rate for line in lines.values() if line[-1].forecast is not None), default=0.0)
    alone = with_machines(run.model_copy(update={"strategy": "classicdp"}), owned, 1).forecast
    if alone is not None and len(lines) and alone.rate >= best and sum(one.count for one in owned) > 1:
        parts.append(Text(f"{alone.nodes[0]} alone is quicker than all of them together: {alone.rate:,.0f} {unit}"))
    if sources:
        parts.append(Text("estimated, not measured:", style="bold yellow"))
        parts += [Text(f"  {name}: {source}") for name, source in sources.items()]
    return parts


def _whole(lines: Mapping[str, Sequence[Scaled]], unit: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("strategy", unit, "step", "waiting", "sent", "memory", "mostly"):
        table.add_column(name, justify="left" if name in ("strategy", "mostly") else "right", no_wrap=True)
    for label, line in lines.items():
        told = line[-1].forecast
        if told is None:
            table.add_row(label, "-", "", "", "", "", escape(line[-1].why))
            continue
        table.add_row(
            label,
            f"{told.rate:,.0f}",
            seconds(told.step_s),
            seconds(told.prediction.wire_s),
            megabytes(told.bytes_per_step),
            f"{max(told.rank_mb):,} MB",
            told.limit,
        )
    return table


def _growth(lines: Mapping[str, Sequence[Scaled]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    counts = [one.machines for one in next(iter(lines.values()))]
    for count in counts:
        table.add_column(f"{count:,}", justify="right", no_wrap=True)
    for label, line in lines.items():
        table.add_row(label, *("-" if one.forecast is None else short(one.forecast.rate) for one in line))
    return table


def _endings(lines: Mapping[str, Sequence[Scaled]]) -> list[str]:
    """Where more machines stop paying; strategies of which the same is true in one line."""
    labels: dict[str, list[str]] = {}
    for label, line in lines.items():
        stop = stops_paying(line)
        if stop is not None:
            what = f"more than {stop[0]:,} machine{'s' if stop[0] > 1 else ''} hardly pay: {stop[1]}"
            labels.setdefault(what, []).append(label)
    return [f"{listed(those)}: {what}" for what, those in labels.items()]


def bound_note(labels: Iterable[str]) -> list[str]:
    """What K is, where a label has one."""
    if not any(" K=" in label for label in labels):
        return []
    return [
        "K: how many steps ranks may be apart (staleness_bound). All keep whole replicas for it; "
        "with --override staleness_bound=0 fsdp 1 and 2 take less memory"
    ]


def short(value: float) -> str:
    """Three digits, with k or M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Three digits, in the unit that fits."""
    if value >= 1 or value == 0:
        return f"{value:.3g} s"
    return f"{value * 1000:.3g} ms"


def megabytes(value: float) -> str:
    """Of bytes."""
    return f"{value / 1e6:,.1f} MB"
