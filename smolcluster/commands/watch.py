"""`python -m smolcluster watch [RUN]`: a run as it goes, on one screen; plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._runs import LATEST, WHICH, existing_run

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from smolcluster.jobs.watching import Look
    from smolcluster.plan.types import Plan, ServePlan
    from smolcluster.runtime.runfolder import RunFolder

LOOK_EVERY_S = 1.0
LINE_EVERY_S = 5.0
EVENTS_SHOWN = 8
EVENT_BYTES = 128 * 1024


def watch(which: Annotated[str, typer.Argument(metavar="RUN", help=WHICH)] = LATEST) -> None:
    """Watch a run: a row per node, progress, loss, who is slowest and why. It leaves with the run's exit code.

    Ctrl-C ends the watching, not the run. Of machines elsewhere it shows what the playbook that follows them hears; of
    a detached run, what was collected.
    """
    from rich.console import Console

    from smolcluster.jobs.watching import going_alone
    from smolcluster.observe.records import Reader
    from smolcluster.observe.report import plan_in
    from smolcluster.runtime.runfolder import RunFolder, run_at

    run_dir = existing_run(which)
    plan = plan_in(run_dir, Reader())
    folder = RunFolder(run_at(run_dir))
    console = Console()
    try:
        last = _on_a_screen(console, folder, plan) if console.is_terminal else _in_lines(folder, plan)
    except KeyboardInterrupt:
        typer.echo("no longer watching; the run is left alone", err=True)
        raise typer.Exit(130) from None
    if last.alone:
        typer.echo(going_alone(folder, last.alone))
        return
    raise typer.Exit(_show_end(console, run_dir))


def _looks(folder: RunFolder, plan: Plan | ServePlan) -> Iterator[Look]:
    """A look about every second, until the run is over: that is the last one."""
    from smolcluster.jobs.watching import Lookout

    lookout = Lookout(folder, plan.ranks)
    pause = threading.Event()
    while True:
        look = lookout.look()
        yield look
        if look.over:
            return
        pause.wait(LOOK_EVERY_S)


def _on_a_screen(console: Console, folder: RunFolder, plan: Plan | ServePlan) -> Look:
    from rich.live import Live

    from smolcluster.observe.events import EventLogs
    from smolcluster.observe.live import History, NodeView, screen
    from smolcluster.observe.records import Reader

    first = plan.ranks[0]
    losses = Reader().metrics(folder.metrics(first.node, first.rank)).steps
    history = History([(float(record.step), record.loss) for record in losses])
    server = first.node if first.role == "server" else None
    logs = EventLogs(folder, plan.ranks, EVENT_BYTES)
    with Live(console=console, auto_refresh=False) as live:
        for look in _looks(folder, plan):
            views = {
                name: NodeView(answer.job, answer.progress) if answer is not None else NodeView(None, {})
                for name, answer in look.nodes.items()
            }
            history.take(views)
            events = logs.look()[-EVENTS_SHOWN:]
            picture = screen(folder.path.name, views, history, events, time.time(), server, console.options.ascii_only)
            live.update(picture, refresh=True)
    return look


def _in_lines(folder: RunFolder, plan: Plan | ServePlan) -> Look:
    from smolcluster.jobs.remarking import Remarks
    from smolcluster.jobs.telling import ServedLines, StepLines, Telling
    from smolcluster.plan.types import ServePlan

    nodes = tuple(dict.fromkeys(rank.node for rank in plan.ranks))
    width = max(map(len, nodes))
    beside = Remarks(folder, plan.ranks)
    told: dict[str, Telling] = {
        node: ServedLines(node, width, LINE_EVERY_S)
        if isinstance(plan, ServePlan)
        else StepLines(node, width, LINE_EVERY_S, beside.of)
        for node in nodes
    }
    for look in _looks(folder, plan):
        for node, answer in look.nodes.items():
            if answer is None:
                continue
            lines = told[node].lines(answer, time.monotonic())
            for line in lines + (told[node].last(answer, time.monotonic()) if look.over else []):
                print(line, flush=True)
    return look


def _show_end(console: Console, run_dir: Path) -> int:
    """How it ended, as its report tells; its exit code, by the summary where there is one: a playbook may know more."""
    from pydantic import ValidationError

    from smolcluster.commands._request import print_notes
    from smolcluster.observe.served import read_story, summarise_story
    from smolcluster.observe.tables import show
    from smolcluster.runtime.runfolder import RunFolder, Summary, run_at

    story = read_story(run_dir)
    print_notes(story.notes)
    summary = summarise_story(story)
    show(console, story, summary)
    try:
        return Summary.model_validate_json(RunFolder(run_at(run_dir)).summary.read_bytes()).exit_code
    except (OSError, ValidationError):
        return summary.exit_code
