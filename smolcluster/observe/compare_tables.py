"""A comparison of runs as a person reads it in a terminal: where they differ, what came of it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from smolcluster.observe.compare import Comparison, Figure
from smolcluster.observe.curves import SMOOTHED

# A ratio that is off by less is within what two runs of the same differ by.
_SAME = 0.02


def show_comparison(console: Console, found: Comparison) -> None:
    """Print the tables."""
    console.print(Group(_config(found), _figures(found)))


def _table(found: Comparison, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", style="dim", no_wrap=True)
    for run_id in found.run_ids:
        table.add_column(escape(run_id), justify="right", overflow="fold")
    return table


def _config(found: Comparison) -> Table:
    table = _table(found, "config, where it differs")
    for key, values in found.differences.items():
        table.add_row(escape(key), *map(escape, values))
    if not found.differences:
        table.add_row("nothing", *("" for _ in found.run_ids))
    return table


def _figures(found: Comparison) -> Table:
    table = _table(found, "figures, and as multiples of the first")
    table.add_row("status", *found.statuses)
    for figure in found.figures:
        label = figure.label
        if figure.key == "seconds_to_loss" and found.target_loss is not None:
            label = f"time to loss {found.target_loss:.4g}"
        table.add_row(label, *(_cell(figure, index) for index in range(len(found.run_ids))))
    if found.target_loss is not None:
        table.caption = f"the loss that time counts to is the mean of {SMOOTHED} recorded steps"
        table.caption_justify = "left"
    return table


def _cell(figure: Figure, index: int) -> str:
    value, ratio = figure.values[index], figure.ratios[index]
    if value is None:
        return "-"
    if index == 0 or ratio is None or figure.better == "neither":
        return told(figure, value)
    good = ratio < 1 if figure.better == "lower" else ratio > 1
    colour = "dim" if abs(ratio - 1) < _SAME else "green" if good else "red"
    return f"{told(figure, value)}  [{colour}]{ratio:.2f}x[/]"


def told(figure: Figure, value: float) -> str:
    """A value with its unit, as short as it can be read."""
    if figure.unit == "s":
        return f"{value:,.1f} s" if value >= 10 else f"{value:.3g} s"
    if figure.unit == "B":
        return f"{value / 1e6:,.2f} MB"
    if figure.unit == "MB":
        return f"{value:,.0f} MB"
    if figure.key == "val_accuracy":
        return f"{value * 100:.2f} %"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.4f}"
