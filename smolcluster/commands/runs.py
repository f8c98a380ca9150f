"""`python -m smolcluster runs`: the runs in a folder, what they take, and with --keep the deletion of old ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from smolcluster.errors import InputError, Problem


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder of runs.")] = Path("runs"),
    keep: Annotated[int, typer.Option(min=0, help="Delete all but so many of the newest; 0 deletes none.")] = 0,
    caches: Annotated[
        bool, typer.Option("--caches", help="Delete data and weights too that were sent here and no run left uses.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for other programs.")] = False,
) -> None:
    """List the runs, the newest first; with --keep or --caches delete what is old, and say what that freed.

    Never deleted: an active run, the one that `latest` leads to, one that is served when the machine starts, one that a
    kept run was resumed from, and whatever is no run. Reports of setup.yml, check.yml and network.yml go as runs do.
    """
    from smolcluster.jobs.housekeeping import Run, prune, runs_in

    if not folder.is_dir():
        raise InputError([Problem(str(folder), 0, "", "there is no such folder", "name the folder of runs")])
    if keep or caches:
        freed = prune(folder, keep, caches)
        if as_json:
            typer.echo(json.dumps(freed.plain()))
            return
        for line in freed.lines() or ["there is nothing to delete"]:
            typer.echo(line)
        return

    found = runs_in(folder)
    if as_json:
        typer.echo(json.dumps([{"run_id": run.name, "began": run.began, "bytes": run.bytes} for run in found]))
        return

    def row(run: Run) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began))
        return f"{run.name:<40} {when}  {run.bytes / 1e6:>9.1f} MB  {run.why_kept}".rstrip()

    for run in found:
        typer.echo(row(run))
    total = sum(run.bytes for run in found) / 1e6
    typer.echo(f"{len(found)} runs, {total:.1f} MB. All but the newest 20 go with --keep 20")
