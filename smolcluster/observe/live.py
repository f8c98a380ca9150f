"""A run as it goes, as one screen: a row per node, the loss as a line of blocks, who is slowest and why. Pure.

What it deliberately does not know: where the records come from, and when to look again.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from smolcluster.observe.curves import Points, means
from smolcluster.observe.events import Event
from smolcluster.observe.progress import clock, slowest
from smolcluster.observe.ranks import STRAGGLES
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import JobState

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"
SPARK_COLUMNS = 48
BAR_COLUMNS = 12
# Speed is that of the last so many looks.
_LOOKS = 60
# One step alone is chance: how long a node computes and waits is the mean of so many that were seen.
_RECENT = 8
# Waiting for less of a step is no remark.
_WAITS = 0.2
# A node that has said nothing for so long, and for so many of its steps, stands still.
_STILL_S, _STILL_STEPS = 10.0, 5
_COLOUR = {"completed": "green", "failed": "red", "stopped": "yellow"}
_EVENT_COLOUR = {"error": "red", "warning": "yellow", "leave": "yellow", "restart": "yellow", "straggler": "yellow"}


@dataclass(frozen=True)
class NodeView:
    """What is known of one node: its job, and the last step of each of its ranks."""

    job: JobState | None
    progress: Mapping[int, StepRecord]


@dataclass
class History:
    """What was seen so far: the losses of all looks, how fast steps came, and the last few steps of each node."""

    losses: Points = field(default_factory=list)
    recent: dict[str, deque[StepRecord]] = field(default_factory=dict)
    _seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_LOOKS))

    def take(self, nodes: Mapping[str, NodeView]) -> None:
        """Add what a look has shown. A run that goes on from an earlier step begins anew there."""
        last = {name: slowest(node.progress) for name, node in nodes.items() if node.progress}
        for name, record in last.items():
            kept = self.recent.setdefault(name, deque(maxlen=_RECENT))
            if not kept or kept[-1].step != record.step:
                kept.append(record)
        records = list(last.values())
        if not records:
            return
        now = min(records, key=lambda record: record.step)
        if self._seen and now.step < self._seen[-1][0]:
            self._seen.clear()
            self.losses = [point for point in self.losses if point[0] < now.step]
        if not self._seen or now.step > self._seen[-1][0]:
            self._seen.append((now.step, now.time))
        if not self.losses or now.step > self.losses[-1][0]:
            self.losses.append((float(now.step), now.loss))

    def left_s(self, record: StepRecord) -> float:
        """Seconds until the last step, at the speed of the last looks; before there are two, at that of the step."""
        steps, seconds = 0, 0.0
        if len(self._seen) > 1:
            steps, seconds = self._seen[-1][0] - self._seen[0][0], self._seen[-1][1] - self._seen[0][1]
        pace = seconds / steps if steps > 0 and seconds > 0 else record.step_s / record.own_steps
        return max(0, record.total_steps - record.step) * pace


def sparkline(points: Points, columns: int = SPARK_COLUMNS, ascii_only: bool = False) -> str:
    """The values as blocks of eight heights, the lowest one low."""
    values = [value for _, value in means(points, columns)]
    if not values:
        return ""
    low, high = min(values), max(values)
    blocks = ASCII if ascii_only else BLOCKS
    return "".join(blocks[round((value - low) / (high - low) * 7) if high > low else 0] for value in values)


def remarks(
    nodes: Mapping[str, NodeView], history: History, now: float, server: str | None = None
) -> dict[str, tuple[str, str]]:
    """Of nodes that explain the run's speed: a word, and a sentence. `server`: the node that computes no steps."""
    running = {
        name: slowest(view.progress)
        for name, view in nodes.items()
        if view.progress and name != server and view.job is not None and view.job.state not in _COLOUR
    }
    said: dict[str, tuple[str, str]] = {}
    for name, record in running.items():
        silent = now - record.time
        if silent > max(_STILL_S, _STILL_STEPS * record.step_s):
            said[name] = ("no step", f"{name} has taken no step for {silent:.0f} s")
    computing = {name: fmean(r.compute_s for r in history.recent.get(name, (running[name],))) for name in running}
    # Of rounds all ranks take their own number of steps, and of stages each its own part.
    alike = [
        name
        for name, record in running.items()
        if record.inner_steps is None and record.idle_share is None and name not in said
    ]
    if len(alike) > 1:
        last = max(alike, key=lambda name: computing[name])
        others = median(computing[name] for name in alike if name != last)
        if computing[last] > STRAGGLES * others:
            times = computing[last] / max(others, 1e-9)
            said[last] = ("slowest", f"{last} is the slowest: it computes {times:.1f} times as long as the others")
    for name, record in running.items():
        seen = history.recent.get(name, (record,))
        waited, took = sum(r.comm_s for r in seen), sum(r.step_s for r in seen)
        if name not in said and took and waited / took > _WAITS:
            said[name] = (f"waits {waited / took:.0%}", "")
    return said


def screen(
    run_id: str,
    nodes: Mapping[str, NodeView],
    history: History,
    events: Sequence[Event],
    now: float,
    server: str | None = None,
    ascii_only: bool = False,
) -> RenderableType:
    """The whole picture. `now`: seconds since 1970."""
    records = [slowest(view.progress) for view in nodes.values() if view.progress]
    parts: list[RenderableType] = [Text(f"run {run_id}", style="bold")]
    if records:
        last = min(records, key=lambda record: record.step)
        speed = sum(each.tokens_per_s for view in nodes.values() for each in view.progress.values())
        left = "" if last.step >= last.total_steps else f"  ETA {clock(history.left_s(last))}"
        text = f"step {last.step:,}/{last.total_steps:,}  loss {last.loss:.4f}  {speed:,.0f} {last.counts}/s{left}"
        parts.append(Text(text))
        parts.append(Text.assemble(("loss ", "dim"), (sparkline(history.losses, ascii_only=ascii_only), "cyan")))
    said = remarks(nodes, history, now, server)
    parts.append(_table(nodes, {name: word for name, (word, _) in said.items()}))
    parts += [Text(sentence, style="yellow") for _, sentence in said.values() if sentence]
    parts += [_event(event) for event in events]
    return Group(*parts)


def _table(nodes: Mapping[str, NodeView], said: Mapping[str, str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("node", "state", "step", "", "tokens/s", "compute", "wait", ""):
        table.add_column(name, justify="left" if name in ("node", "state", "") else "right", no_wrap=True)
    for name, view in nodes.items():
        state = view.job.state if view.job is not None else "no word yet"
        shown = f"[{_COLOUR.get(state, 'default')}]{state}[/]"
        if view.job is not None and view.job.restarts:
            shown += f" [yellow]({view.job.restarts} restarts)[/]"
        remark = said.get(name, "")
        style = "yellow" if remark.startswith(("slowest", "no step")) else "dim"
        if not view.progress:
            reason = view.job.reason if view.job is not None else ""
            table.add_row(escape(name), shown, "-", "", "-", "-", "-", Text(reason, style="dim"))
            continue
        record = slowest(view.progress)
        speed = sum(each.tokens_per_s for each in view.progress.values())
        table.add_row(
            Text(name, style="bold yellow" if style == "yellow" else ""),
            shown,
            f"{record.step:,}",
            ProgressBar(total=max(1, record.total_steps), completed=record.step, width=BAR_COLUMNS),
            f"{speed:,.0f}",
            f"{record.compute_s / record.own_steps:.3f} s",
            f"{record.comm_s / record.own_steps:.3f} s",
            Text(remark, style=style),
        )
    return table


def _event(event: Event) -> Text:
    when = "        " if event.time is None else datetime.datetime.fromtimestamp(event.time).strftime("%H:%M:%S")
    colour = _EVENT_COLOUR.get(event.kind, "default")
    line = Text.assemble((f"{when}  ", "dim"), (f"{event.node}  ", "dim"), (event.text, colour))
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
