"""`checkpoint WHICH`: which checkpoint a resumed run would start from, as JSON. Starts nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def checkpoint(
    which: Annotated[str, typer.Argument(help="latest, a run's name or folder, or one of its manifests.")] = "latest",
    runs: Annotated[Path, typer.Option("--runs", help="The folder of runs.")] = Path("runs"),
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Other machines may hold checkpoints that are not seen from here.")
    ] = False,
    continues: Annotated[
        bool, typer.Option("--continues", help="Read the plan of the run that goes on from it on stdin, and compare.")
    ] = False,
    other_data: Annotated[bool, typer.Option("--other-data", help="That run's data may be another.")] = False,
) -> None:
    """Print the run, its folder and the newest checkpoint's step; exit code 2 if there is nothing to resume from."""
    from smolcluster.commands._continues import require_continues
    from smolcluster.commands._resume import checkpoint_named
    from smolcluster.plan.types import Plan

    found = checkpoint_named(which, runs.absolute(), "-e resume" if elsewhere else "checkpoint", elsewhere)
    plan = Plan.model_validate_json(sys.stdin.read()) if continues else None
    notes = require_continues(found, plan, "-e resume", other_data) if plan is not None else []
    told: dict[str, object] = {
        "run_id": found.folder.name,
        "dir": str(found.folder),
        "manifest": found.manifest,
        "step": found.step,
    }
    told |= {"notes": notes}
    typer.echo(json.dumps(told))
