"""`checkpoint [RUN]`: a run's checkpoints, whether they are whole, and which one a resumed run would start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._runs import WHICH

if TYPE_CHECKING:
    from rich.table import Table

    from smolcluster.commands._resume import Found
    from smolcluster.runtime.checkpoint.survey import Seen, Survey


def checkpoint(
    which: Annotated[str, typer.Argument(metavar="RUN", help=f"{WHICH} Or one of its manifests.")] = "latest",
    runs: Annotated[Path, typer.Option("--runs", help="The folder of runs.")] = Path("runs"),
    hashes: Annotated[
        bool,
        typer.Option("--hashes", help="Read every file and compare it with its hash; else presence and size."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for other programs.")] = False,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Other machines may hold files that are not seen from here.")
    ] = False,
) -> None:
    """Show a run's checkpoints; starts nothing. Exit code 2 if there is none to resume from."""
    from smolcluster.commands._resume import LOOKING, checkpoint_named

    flag = "-e resume" if elsewhere else LOOKING
    found = checkpoint_named(which, runs.absolute(), flag, elsewhere, hashes)
    if as_json:
        typer.echo(json.dumps(_told(found)))
    else:
        _show(found)


def _told(found: Found) -> dict[str, object]:
    return {
        "run_id": found.folder.name,
        "dir": str(found.folder),
        "manifest": found.manifest,
        "step": found.step,
        "hashed": found.survey.hashed,
        "problems": list(found.survey.problems),
        "checkpoints": [
            {
                "step": seen.manifest.step,
                "generation": seen.manifest.generation,
                "strategy": seen.manifest.strategy,
                "world_size": seen.manifest.world_size,
                "val_loss": seen.manifest.val_loss,
                "bytes": seen.bytes,
                "whole": seen.whole,
                "missing": list(seen.missing),
            }
            for seen in found.survey.checkpoints
        ],
    }


def _show(found: Found) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if found.survey.checkpoints:
        console.print(_table(found.survey, found.folder.name))
    for line in (*found.survey.problems, *found.survey.lacks):
        console.print(line, markup=False, soft_wrap=True)
    where = "its newest checkpoint, which is on other machines" if found.step is None else f"step {found.step:,}"
    console.print(f"a resumed run starts from {where} of {found.path}", markup=False, soft_wrap=True)
    if found.survey.checkpoints and not found.survey.hashed:
        console.print("looked at: presence and size of every file; --hashes reads them too", style="dim")


def _table(survey: Survey, run_id: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"checkpoints of {escape(run_id)}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("step", "of", "written by", "validation loss", "size", "state"):
        table.add_column(name, justify="left" if name in ("written by", "state") else "right", no_wrap=True)
    for seen in survey.checkpoints:
        manifest = seen.manifest
        stage = f" stage {manifest.stage}" if manifest.strategy == "fsdp" else ""
        table.add_row(
            f"{manifest.step:,}",
            f"{manifest.total_steps:,}",
            f"{manifest.strategy}{stage}, {manifest.world_size} rank{'s' if manifest.world_size > 1 else ''}",
            "-" if manifest.val_loss is None else f"{manifest.val_loss:.4f}",
            f"{seen.bytes / 1e6:,.1f} MB",
            _state(seen, survey.hashed),
        )
    return table


def _state(seen: Seen, hashed: bool) -> str:
    if seen.whole:
        return "[green]good[/]" if hashed else "[green]whole[/]"
    count = len(seen.manifest.files)
    return f"[yellow]{len(seen.missing)} of {count} files not here[/]" if seen.missing else "[red]damaged[/]"
