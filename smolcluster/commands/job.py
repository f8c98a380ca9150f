"""`python -m smolcluster job start|poll|stop|status`: one node's part of a run. JSON on stdout, errors on stderr.

`act`, `parcel` and `upkeep` are what the playbooks' modules call where Ansible runs no Python: options as JSON on
stdin, so that nothing has to survive a command line. All JSON is ASCII, whatever code page a Windows console has.

What only some commands need is imported inside them: `poll` is asked every few seconds, of a Raspberry Pi too.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from smolcluster.errors import ConfigError, Problem
from smolcluster.jobs.pieces import parse_have
from smolcluster.jobs.poll import list_runs, poll_job
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import ASKED_GRACE_S, MAX_GRACE_S, JobError, Launcher
from smolcluster.spec.base import Frozen

app = typer.Typer(
    help="Start, follow and stop one node's part of a run. The playbooks call this on every node.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Options = TypeVar("Options", bound=Frozen)
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
    from smolcluster.jobs.launch import start_job

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
    bring: Annotated[bool, typer.Option("--bring", help="With what logs and metrics have beyond --have.")] = False,
    have: Annotated[list[str] | None, typer.Option("--have", help="NAME:DIGEST:OFFSET, of each file.")] = None,
) -> None:
    """Print the job's state, each rank's last step, and failures with the ends of their logs."""
    try:
        places = parse_have(have or ()) if bring else None
    except ValueError:
        raise ConfigError([Problem("", 0, "--have", "is not NAME:DIGEST:OFFSET", "start the playbook again")]) from None
    _print(poll_job(run_dir, node, renew=renew, have=places))


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
    _say({"workdir": str(workdir), "runs": runs})


@app.command("act")
def act_() -> None:
    """What the module smolcluster_job does: its options as JSON on stdin, its result on stdout."""
    from smolcluster.jobs.acting import Action, act

    _say(act(_options(Action)))


@app.command()
def parcel() -> None:
    """What the module smolcluster_tree does: its options as JSON on stdin, its result on stdout."""
    from smolcluster.jobs.parcel import Step, step

    asked = _options(Step)
    try:
        _say(step(asked))
    except tarfile.TarError as error:
        raise JobError(f"{asked.run_dir}: {error}") from error


@app.command("upkeep")
def upkeep_() -> None:
    """What smolcluster_boot and smolcluster_runs do: their options as JSON on stdin, their result on stdout."""
    from smolcluster.jobs.upkeep import Upkeep, act

    _say(act(_options(Upkeep)))


def _options(kind: type[Options]) -> Options:
    try:
        return kind.model_validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        fix = "use the same version of smolcluster on the controller and on this node (ansible-playbook setup.yml)"
        raise ConfigError(
            Problem("stdin", 0, ".".join(map(str, each["loc"])), each["msg"], fix) for each in error.errors()
        ) from error


def _print(value: Frozen) -> None:
    _say(json.loads(value.model_dump_json(by_alias=True)))


def _say(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))
