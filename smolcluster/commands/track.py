"""`python -m smolcluster track RUN --parent PROCESS`: the process that tells a tracker of a run as it goes on.

Commands and playbooks start it; a person uploads a run that is there (`upload`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smolcluster.errors import InputError, Problem


def track(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    parent: Annotated[str, typer.Option("--parent", help="The process that it ends with, as JSON.")],
) -> None:
    """Tell the run's tracker what is recorded, until whoever follows the run asks for the rest, or ends."""
    from smolcluster.jobs.tracking import follow_into_tracker, parse_process
    from smolcluster.observe.records import Reader
    from smolcluster.observe.report import plan_in
    from smolcluster.plan.types import Plan
    from smolcluster.runtime.runfolder import RunFolder, run_at

    who = parse_process(parent)
    plan = plan_in(run_dir, Reader())
    if who is None:
        raise InputError([Problem("", 0, "--parent", "is no process", "start it as train.yml does")])
    if not isinstance(plan, Plan) or plan.run.tracking.tracker == "none":
        what, fix = "asks for no tracker", "python -m smolcluster upload gives a run to one"
        raise InputError([Problem(str(run_dir), 0, "", what, fix)])
    raise typer.Exit(follow_into_tracker(RunFolder(run_at(run_dir)), plan, who))
