"""What `simulate` found, as tables: all machines together by strategy, how each strategy grows with them, what the
fastest machine would do alone, what to change to gain most, and serving.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from smolcluster.spec.problems import listed

# Changes that are told, as many as check.yml tells; and numbers of machines.
_MOST = 8


@dataclass(frozen=True)
class Story:
    """All that was found. `lines`: of each strategy, by number of machines; `best`: the quickest of all together, from
    which `gains` are counted, None where nothing can be; `alone`: the fastest machine, with the batch of its own;
    `serving`: on one machine, and on all; `sources`: of what is estimated; `by_speed`: strategies in which machines of
    several speeds have shares of the batch by them.
    """

    unit: str
    owned: Sequence[Owned]
    lines: Mapping[str, Sequence[Scaled]]
    sources: Mapping[str, str]
    best: str | None
    alone: Forecast | None
    gains: Sequence[Gain]
    serving: Sequence[OnPaper]
    by_speed: Sequence[str] = ()

    @property
    def quicker_alone(self) -> bool | None:
        """Whether the fastest machine alone is; None where there is nothing to compare."""
        if self.alone is None or self.best is None or sum(one.count for one in self.owned) < 2:
            return None
        whole = self.lines[self.best][-1].forecast
        return whole is not None and self.alone.rate >= whole.rate


def tables(story: Story) -> list[RenderableType]:
    """Tables and what has to be said with them."""
    machines = ", ".join(f"{one.count:,} x {one.name}" for one in story.owned)
    # Titles of their own: a table's would be broken to its width.
    parts: list[RenderableType] = [_title(machines), _whole(story.lines, story.unit)]
    if sum(one.count for one in story.owned) > 1:
        parts += [_title(f"{story.unit} by number of machines, the fastest first"), _growth(story.lines)]
    parts += [Text(line) for line in [*_endings(story.lines), *bound_note(story.lines), *_shares(story.by_speed)]]
    if story.quicker_alone is not None and story.alone is not None:
        word = "quicker than" if story.quicker_alone else "slower than the best of"
        rate = f"{story.alone.rate:,.0f} {story.unit}"
        parts.append(Text(f"{story.alone.nodes[0]} alone: {rate}, {word} all together"))
    parts += [Text(_served(one)) for one in story.serving]
    if story.gains:
        parts += [Text(), _title(f"what to change to gain most, from {story.best}"), _gains(story)]
    if story.sources:
        parts.append(Text("estimated, not measured:", style="bold yellow"))
        parts += [Text(f"  {name}: {source}") for name, source in story.sources.items()]
    return parts


def _title(text: str) -> Text:
    return Text(text, style="italic")


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
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("change")
    table.add_column(story.unit, justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("how")
    for one in story.gains[:_MOST]:
        table.add_row(escape(one.change), f"{one.after:,.0f}", f"{one.times:.2f}x", escape(one.how))
    return table


def _whole(lines: Mapping[str, Sequence[Scaled]], unit: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("strategy", no_wrap=True)
    for name in (unit, "step", "waiting", "sent", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    # Why a strategy cannot be is a sentence: the only column that may be broken.
    table.add_column("most of it")
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
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("strategy", no_wrap=True)
    # Of many only every other one: a terminal has 80 columns.
    every = 1 if len(next(iter(lines.values()))) <= _MOST else 2
    shown = {label: line[::-every][::-1] for label, line in lines.items()}
    for one in next(iter(shown.values())):
        table.add_column(f"{one.machines:,}", justify="right", no_wrap=True)
    for label, line in shown.items():
        table.add_row(label, *("-" if one.forecast is None else short(one.forecast.rate) for one in line))
    return table


def _endings(lines: Mapping[str, Sequence[Scaled]]) -> list[str]:
    """A line each; strategies of which the same is to be said have one."""
    said: dict[str, list[str]] = {}
    for label, line in lines.items():
        if (stop := stops_paying(line)) is not None:
            words = f"more than {stop[0]:,} machine{'s' if stop[0] > 1 else ''} hardly pay: {stop[1]}"
            said.setdefault(words, []).append(label)
    return [f"{listed(labels)}: {words}" for words, labels in said.items()]


def _shares(by_speed: Sequence[str]) -> list[str]:
    """How the batch is shared out, where that is not as a run does it that is told nothing."""
    if not by_speed:
        return []
    return [
        f"{listed(by_speed)}: shares of the batch by speed, as with -e profile=true -e override=balance=auto;"
        " --override balance=even shows even ones"
    ]


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
    if value >= 1000:
        return f"{value:,.0f} s"
    if value >= 1 or value == 0:
        return f"{value:.3g} s"
    return f"{value * 1000:.3g} ms"


def megabytes(value: float) -> str:
    """Of bytes; gigabytes where they are many."""
    if value >= 1e10:
        return f"{value / 1e9:,.1f} GB"
    return f"{value / 1e6:,.1f} MB"
