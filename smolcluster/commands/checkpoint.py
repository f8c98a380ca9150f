"""`checkpoint WHICH`: which checkpoint a resumed run would start from, as JSON. Starts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def checkpoint(
    which: Annotated[str, typer.Argument(help="latest, a run's name or folder, or one of its manifests.")] = "latest",
    runs: Annotated[Path, typer.Option("--runs", help="The folder of runs.")] = Path("runs"),
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Other machines may hold checkpoints that are not seen from here.")
    ] = False,
) -> None:
    """Print the run, its folder and the newest checkpoint's step; exit code 2 if there is nothing to resume from."""
    from smolcluster.commands._resume import checkpoint_named

    found = checkpoint_named(which, runs.absolute(), "-e resume" if elsewhere else "checkpoint", elsewhere)
    told = {"run_id": found.folder.name, "dir": str(found.folder), "manifest": found.manifest, "step": found.step}
    typer.echo(json.dumps(told))
