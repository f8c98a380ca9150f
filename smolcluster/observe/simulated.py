"""What `simulate` found, as tables: all machines together by strategy, how each strategy grows with them, what the
fastest machine would do alone, what to change to gain most, and serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smolcluster.plan.forecast import Forecast
from smolcluster.plan.outlook import Gain
from smolcluster.plan.paper import Owned, Scaled, stops_paying
from smolcluster.plan.paper_serving import OnPaper

# As many changes as check.yml tells.
_MOST = 8


@dataclass(frozen=True)
class Story:
    """All that was found. `lines`: of each strategy, by number of machines; `best`: the quickest of all together, from
    which `gains` are counted, None where nothing can be; `alone`: the fastest machine, with the batch of its own;
    `serving`: on one machine, and on all; `sources`: of what is estimated.
    """

    unit: str
    owned: Sequence[Owned]
    lines: Mapping[str, Sequence[Scaled]]
    sources: Mapping[str, str]
    best: str | None
    alone: Forecast | None
    gains: Sequence[Gain]
    serving: Sequence[OnPaper]

    @property
    def quicker_alone(self) -> bool | None:
        """Whether the fastest machine alone is; None where there is nothing to compare."""
        if self.alone is None or self.best is None or sum(one.count for one in self.owned) < 2:
            return None
        whole = self.lines[self.best][-1].forecast
        return whole is not None and self.alone.rate >= whole.rate


def tables(story: Story) -> list[RenderableType]:
    """Tables and what has to be said with them."""
    machines = ", ".join(f"{one.count} x {one.name}" for one in story.owned)
    parts: list[RenderableType] = [_whole(story.lines, machines, story.unit), _growth(story.lines, story.unit)]
    parts += [Text(line) for line in _endings(story.lines)]
    if story.quicker_alone is not None and story.alone is not None:
        word = "quicker than" if story.quicker_alone else "slower than the best of"
        rate = f"{story.alone.rate:,.0f} {story.unit}"
        parts.append(Text(f"{story.alone.nodes[0]} alone: {rate}, {word} all together"))
    parts += [Text(_served(one)) for one in story.serving]
    if story.gains:
        parts.append(_gains(story))
    if story.sources:
        parts.append(Text("estimated, not measured:", style="bold yellow"))
        parts += [Text(f"  {name}: {source}") for name, source in story.sources.items()]
    return parts


def _served(one: OnPaper) -> str:
    kinds = dict.fromkeys(one.machines)
    who = (
        ", ".join(f"{one.machines.count(name)} x {name}" for name in kinds) if len(one.machines) > 1 else "".join(kinds)
    )
    if one.told is None:
        return f"serving this model on {who}: not predicted: {one.why}"
    layers = ", ".join(str(stop - start) for start, stop in one.ranges)
    split = f" (layers {layers})" if len(one.ranges) > 1 else ""
    return (
        f"serving this model on {who}{split}: {one.told.one:,.1f} tokens/s for one, {one.told.several:,.1f} for "
        f"{one.told.streams} at once, {one.told.prompt:,.0f} of a prompt"
    )


def _gains(story: Story) -> Table:
    title = f"what to change to gain most, from {story.best}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("change")
    table.add_column(story.unit, justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("how")
    for one in story.gains[:_MOST]:
        table.add_row(escape(one.change), f"{one.after:,.0f}", f"{one.times:.2f}x", escape(one.how))
    return table


def _whole(lines: Mapping[str, Sequence[Scaled]], machines: str, unit: str) -> Table:
    table = Table(title=escape(machines), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("strategy", unit, "step", "waiting", "sent", "memory", "most of it"):
        table.add_column(name, justify="left" if name in ("strategy", "most of it") else "right", no_wrap=True)
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


def _growth(lines: Mapping[str, Sequence[Scaled]], unit: str) -> Table:
    table = Table(
        title=f"{unit} by number of machines, the fastest first", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("strategy", no_wrap=True)
    counts = [one.machines for one in next(iter(lines.values()))]
    for count in counts:
        table.add_column(f"{count:,}", justify="right", no_wrap=True)
    for label, line in lines.items():
        table.add_row(label, *("-" if one.forecast is None else short(one.forecast.rate) for one in line))
    return table


def _endings(lines: Mapping[str, Sequence[Scaled]]) -> list[str]:
    return [
        f"{label}: more than {stop[0]:,} machine{'s' if stop[0] > 1 else ''} hardly pay: {stop[1]}"
        for label, line in lines.items()
        if (stop := stops_paying(line)) is not None
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
