"""`python -m smolcluster job start|poll|stop|status`: one node's part of a run. JSON on stdout, errors on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from smolcluster.jobs import Launcher, list_runs, poll_job, start_job, stop_job
from smolcluster.jobs.types import ASKED_GRACE_S, MAX_GRACE_S
from smolcluster.spec.base import Frozen

app = typer.Typer(
    help="Start, follow and stop one node's part of a run. The playbooks call this on every node.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

RunDir = Annotated[Path, typer.Option("--run-dir", help="The run's folder on this node.")]
NodeName = Annotated[str, typer.Option("--node", help="This node's name in the inventory.")]


@app.command()
def start(
    node_yaml: Annotated[Path, typer.Argument(help="This host's node.yaml.")],
    replace: Annotated[bool, typer.Option("--replace", help="Stop a run that is active on this node first.")] = False,
    launcher: Annotated[
        Launcher,
        typer.Option(
            help="How the supervisor is started; auto: systemd where its units outlive a login, on Windows a task."
        ),
    ] = "auto",
) -> None:
    """Start this node's ranks under a supervisor; returns when they run. Exit 2: another is active, 3: failed."""
    state = start_job(node_yaml, replace=replace, launcher=launcher)
    _print(state)
    if state.state == "failed":
        typer.echo(f"{state.node}: {state.reason}", err=True)
        raise typer.Exit(3)


@app.command()
def poll(
    run_dir: RunDir,
    node: NodeName,
    renew: Annotated[bool, typer.Option("--renew/--no-renew", help="Give the run another term of its lease.")] = True,
) -> None:
    """Print the job's state, each rank's last step, and failures with the ends of their logs."""
    _print(poll_job(run_dir, node, renew=renew))


@app.command()
def stop(
    run_dir: RunDir,
    node: NodeName,
    grace: Annotated[
        float, typer.Option(min=0, max=MAX_GRACE_S, help="Seconds the ranks get to finish their step and save.")
    ] = ASKED_GRACE_S,
    reason: Annotated[str, typer.Option(help="Why; the report shows it.")] = "stopped on request",
) -> None:
    """Stop this node's ranks; returns when all of them have ended."""
    _print(stop_job(run_dir, node, reason=reason, grace_s=grace))


@app.command()
def status(workdir: Annotated[Path, typer.Option("--workdir", help="The folder this node's runs live in.")]) -> None:
    """List the runs this node knows; the active ones are marked."""
    runs = [entry.model_dump(mode="json", by_alias=True) for entry in list_runs(workdir)]
    typer.echo(json.dumps({"workdir": str(workdir), "runs": runs}, indent=2))


@app.command(hidden=True)
def upkeep() -> None:
    """What the modules for Windows ask a PC for: an action as JSON on stdin, what came of it on stdout."""
    from smolcluster.jobs.upkeep import Upkeep, act

    typer.echo(json.dumps(act(Upkeep.model_validate_json(sys.stdin.buffer.read()))))


def _print(value: Frozen) -> None:
    typer.echo(value.model_dump_json(by_alias=True, indent=2))
