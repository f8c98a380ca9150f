"""`python -m smolcluster upload RUN --to wandb|tensorboard`: a run that is there, for an experiment tracker."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from smolcluster.commands._runs import WHICH, missing, run_named
from smolcluster.errors import InputError, Problem
from smolcluster.spec.problems import did_you_mean


def upload(
    which: Annotated[str, typer.Argument(metavar="RUN", help=WHICH, show_default=False)],
    to: Annotated[str, typer.Option("--to", help="wandb or tensorboard.", show_default=False)],
    mode: Annotated[
        str | None, typer.Option("--mode", help="Of W&B: offline or online. Without it, as the run's config says.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also if W&B has it: as another run.")] = False,
) -> None:
    """Give a run's metrics, of every rank, to W&B (one run each) or TensorBoard (tracking/tensorboard in its folder).

    The run is as it was before, whatever becomes of this. W&B finds its key itself: WANDB_API_KEY, or `wandb login`.
    """
    from smolcluster.commands._request import print_notes
    from smolcluster.jobs.tracking import being_tracked
    from smolcluster.observe.report import read_run
    from smolcluster.observe.tracking.sink import TRACKERS
    from smolcluster.observe.tracking.tracked import track
    from smolcluster.runtime.runfolder import RunFolder, run_at

    tracker = next((one for one in TRACKERS if one == to), None)
    modes: tuple[Literal["offline", "online"], ...] = ("offline", "online")
    chosen = next((one for one in modes if one == mode), None)
    problems = []
    if tracker is None:
        problems.append(
            Problem("", 0, "--to", f"{to} is no tracker", did_you_mean(to, TRACKERS, "write wandb or tensorboard"))
        )
    if mode is not None and chosen is None:
        problems.append(
            Problem("", 0, "--mode", f"{mode} is no mode", did_you_mean(mode, modes, "write offline or online"))
        )
    run_dir, absent = run_named(which), missing(which)
    if absent is not None:
        problems.append(absent)
    if problems or tracker is None:
        raise InputError(problems)
    live = being_tracked(RunFolder(run_at(run_dir)))
    if live is not None and live.to == tracker:
        what = f"{tracker} is being told of it as it goes on, by process {live.process.pid}"
        raise InputError([Problem(which, 0, "", what, "wait until the run has ended: then it is there")])
    story = read_run(run_dir)
    print_notes(story.notes)
    said = track(RunFolder(run_at(run_dir)), story, tracker, chosen or story.plan.run.tracking.mode, again)
    typer.echo(f"{tracker}: {said}")
