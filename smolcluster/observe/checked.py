"""What check.yml found, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smolcluster.doctor.machines import Machine
from smolcluster.doctor.report import Check, FastestAlone, Serving
from smolcluster.observe.simulated import bound_note, megabytes, seconds
from smolcluster.observe.ways import ways_told

# Machines of which a line of the table can tell the memory.
_MOST_SHOWN = 3


def show(console: Console, check: Check, measure: str) -> None:
    """Print all of it. `measure`: what measures these machines."""
    parts: list[RenderableType] = []
    if check.machines:
        parts.append(_machines(check))
        if ways := ways_told(check):
            parts.append(Text(ways))
    parts += _findings(check)
    if check.measured is not None:
        parts += [_predictions(check), *_notes(check)]
    else:
        parts.append(Text(f"nothing was measured, so nothing is predicted: {measure}"))
    if check.serving is not None and check.measured is not None:
        parts.append(Text(_served(check.serving)))
    if check.gains:
        parts.append(_gains(check))
    console.print(Group(*parts))


def _table(title: str, left: tuple[str, ...], *right: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _machines(check: Check) -> Table:
    unit = f"{check.counts}/s"
    table = _table(
        f"machines of {escape(check.cluster)}", ("machine", "smolcluster, torch"), "clock", "disk", "memory", "°C", unit
    )
    table.add_column("addresses")
    speeds = check.measured.speeds if check.measured is not None else {}
    for machine in check.machines:
        speed = f"{speeds[machine.name]:,.0f}" if machine.name in speeds else "-"
        table.add_row(*_row(machine, speed))
    return table


def _row(machine: Machine, speed: str) -> list[str]:
    looked = machine.looked
    name = escape(machine.name)
    if looked is None:
        return [name, f"[red]{escape(machine.why_not.splitlines()[0])}[/]", "", "", "", "", speed, ""]
    own, torch = (looked.versions.get(key) or "none" for key in ("smolcluster", "torch"))
    heat = "-" if looked.temperature_c is None else f"{looked.temperature_c:.0f}"
    free = "-" if looked.memory_free_mb is None else f"{looked.memory_free_mb / 1024:,.1f}"
    total = "-" if looked.memory_mb is None else f"{looked.memory_mb / 1024:,.1f}"
    disk = "-" if looked.disk_free_mb is None else f"{looked.disk_free_mb / 1024:,.0f} GB"
    clock = "ok" if not looked.clock.off_s else f"{looked.clock.off_s:+,.1f} s"
    addresses = ", ".join(f"{network} {address}" for network, address in (machine.addresses or {}).items())
    return [name, f"{own}, {torch}", clock, disk, f"{free} of {total} GB", heat, speed, escape(addresses)]


def _findings(check: Check) -> list[RenderableType]:
    if not check.findings:
        return [Text("nothing wrong was found", style="green")] if check.machines else []
    table = _table("what is wrong", ("machine", "what", "fix"))
    for one in check.findings:
        colour = "red" if one.blocks else "yellow"
        table.add_row(f"[{colour}]{escape(one.node)}[/]", escape(one.what), escape(one.fix))
    return [table]


def _predictions(check: Check) -> Table:
    table = _table("predicted", (), "strategy", f"{check.counts}/s", "step", "waiting", "sent")
    table.columns[0].justify = "left"
    # Where a terminal is narrow, what can be broken is.
    table.add_column("memory", justify="right")
    table.add_column("mostly")
    for one in sorted(check.predictions, key=lambda row: -(row.tokens_per_s or 0.0)):
        if one.tokens_per_s is None:
            table.add_row(one.strategy, "-", "", "", "", "", escape(one.why_not))
            continue
        table.add_row(
            one.strategy,
            f"{one.tokens_per_s:,.0f}",
            seconds(one.step_s or 0.0),
            seconds(one.wire_s or 0.0),
            megabytes(one.bytes_per_step or 0),
            _memory(one.memory_mb),
            one.most_of_it,
        )
    return table


def _memory(by_node: Mapping[str, int]) -> str:
    """MB of each machine; of many the least and the most. check.json has all."""
    if not by_node:
        return "-"
    if len(set(by_node.values())) == 1:
        return f"{next(iter(by_node.values())):,} MB"
    shown = sorted(by_node, key=lambda node: by_node[node])
    if len(shown) > _MOST_SHOWN:
        shown = [shown[0], "...", shown[-1]]
    return ", ".join(f"{node} {by_node[node]:,}" if node in by_node else node for node in shown) + " MB"


def _notes(check: Check) -> list[RenderableType]:
    notes = []
    if check.measured is not None:
        when = (
            f"measured {check.measured.date[:16].replace('T', ' ')} UTC" if check.measured.date else "written by hand"
        )
        notes.append(f"speeds: profile.json, {when}" + (", which is long ago" if check.measured.old else ""))
    if check.alone is not None:
        notes.append(_alone(check.alone, f"{check.counts}/s"))
    notes += bound_note(one.strategy for one in check.predictions)
    return [Text(note) for note in notes]


def _alone(one: FastestAlone, unit: str) -> str:
    """The fastest machine beside all together, of whom the table does not show what shares by speed would make."""
    said = f"{one.node} alone: {one.tokens_per_s:,.0f} {unit}"
    if not one.quicker:
        return f"{said}, slower than the best of all together"
    if one.by_speed_tokens_per_s is None:
        return f"{said}, quicker than all together"
    if one.by_speed_tokens_per_s < one.tokens_per_s:
        return f"{said}, quicker than all together, with shares of the batch by speed too"
    return (
        f"{said}, quicker than all together as the batch is shared now;"
        f" {one.by_speed} with shares by speed (balance=auto): {one.by_speed_tokens_per_s:,.0f}"
    )


def _served(one: Serving) -> str:
    if one.why_not:
        return f"serving{f' {one.model}' if one.model else ''}: not predicted: {one.why_not}"
    split = ", ".join(f"{node} {layers}" for node, layers in one.layers.items())
    return (
        f"serving {one.model} ({split}): {one.one_stream:,.1f} tokens/s for one, {one.several_streams:,.1f} for"
        f" {one.streams} at once, {one.prompt_tokens_per_s:,.0f} of a prompt; all hops {one.hops_ms:.2f} ms a token"
    )


def _gains(check: Check) -> Table:
    table = _table(f"what to change to gain most, from {check.strategy}", ("change",), f"{check.counts}/s", "gain")
    table.add_column("how")
    for one in check.gains:
        times = one.tokens_per_s_after / one.tokens_per_s_before
        table.add_row(escape(one.change), f"{one.tokens_per_s_after:,.0f}", f"{times:.2f}x", escape(one.how))
    return table
