"""`python -m smolcluster compare RUN RUN...`: trainings side by side, from what they left in their folders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._runs import WHICH, missing, run_named, uncollected
from smolcluster.errors import InputError, Problem

if TYPE_CHECKING:
    from smolcluster.observe.report import RunStory


def compare(
    which: Annotated[list[str], typer.Argument(metavar="RUN", help=f"At least two. {WHICH}", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Draw losses and gradients by layer into this folder, as SVG and PNG.")
    ] = None,
    loss: Annotated[
        float | None, typer.Option("--loss", help="Count the time to this loss; else to the lowest that all reached.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Lay runs side by side: where their configs differ, losses, speeds, bytes, memory, as multiples of the first.

    It changes nothing in the runs. One that has not ended is compared by the steps it took so far.
    """
    from rich.console import Console

    from smolcluster.commands._request import print_notes
    from smolcluster.observe.compare import compare as lay_side_by_side
    from smolcluster.observe.compare_tables import show_comparison

    if loss is not None and not math.isfinite(loss):
        raise InputError([Problem("", 0, "--loss", f"{loss} is no loss", "give a number, as --loss 3.5")])
    with uncollected():
        stories = read_runs(which)
        for story in stories:
            print_notes(f"{story.run_id}: {note}" for note in story.notes)
        found = lay_side_by_side(stories, loss)
        if as_json:
            typer.echo(found.to_json(), nl=False)
        else:
            show_comparison(Console(), found)
        if out is not None:
            from smolcluster.observe.compare_plots import write_comparison

            drawn = write_comparison(stories, out.expanduser(), found.target_loss)
            typer.echo(f"plots: {out}" if drawn else "no plots: none of these runs took a step", err=as_json)


def read_runs(which: list[str]) -> list[RunStory]:
    """The runs of those names, with what is wrong with all of them at once. InputError."""
    from smolcluster.observe.report import read_run

    stories: list[RunStory] = []
    problems: list[Problem] = []
    for text in which:
        problem = missing(text)
        if problem is not None:
            problems.append(problem)
            continue
        try:
            stories.append(read_run(run_named(text)))
        except InputError as error:
            problems += error.problems
    if len(which) < 2:
        problems.append(Problem("", 0, "", "one run alone is compared with nothing", "name another, as runs/latest"))
    if problems:
        raise InputError(problems)
    return stories
