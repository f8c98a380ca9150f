"""`python -m smolcluster provision wheel | plan | uv | report`: what setup.yml asks on the controller, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import ValidationError

    from smolcluster.errors import InputError

app = typer.Typer(
    help="What setup.yml puts on a machine. The playbook calls this on the controller.", no_args_is_help=True
)
CHECKOUT = Path(__file__).resolve().parents[2]


@app.command("wheel")
def wheel(
    folder: Annotated[Path, typer.Argument(help="Where it goes.")],
    extras: Annotated[str, typer.Option(help="The extras that will be asked for; refused if there is no such.")] = "",
    wheels: Annotated[str, typer.Option(help="The folder of wheels that will be read; refused if it is none.")] = "",
) -> None:
    """Build smolcluster's wheel out of this checkout. The same sources give the same bytes."""
    from smolcluster.errors import InputError, Problem
    from smolcluster.provision.wheel import NAME, build_wheel, extras_of
    from smolcluster.runtime.runfolder import write_atomic
    from smolcluster.spec.problems import did_you_mean

    known, asked = extras_of(CHECKOUT), [extra for extra in extras.split(",") if extra]
    problems = [
        Problem("", 0, f"-e extras={extra}", "there is no such extra", did_you_mean(extra, known))
        for extra in asked
        if extra not in known
    ]
    if wheels and not any(Path(wheels).glob("*.whl")):
        problems.append(Problem("", 0, f"-e wheels={wheels}", "is no folder of wheels", "see roles/runtime/README.md"))
    if problems:
        raise InputError(problems)
    content, path = build_wheel(CHECKOUT), folder / NAME
    same = path.exists() and path.read_bytes() == content
    if not same:
        write_atomic(path, content)
    print(json.dumps({"schema": 1, "wheel": str(path), "changed": not same}))


@app.command("plan")
def plan() -> None:
    """Read {found: what node.py printed, wanted: what setup.yml was asked for} and print what is done there."""
    from pydantic import ValidationError

    from smolcluster.provision.facts import Found
    from smolcluster.provision.plan import Wanted, decide
    from smolcluster.provision.wheel import requirements

    given = json.load(sys.stdin)
    extras = tuple(given["wanted"].get("extras", ()))
    own = {"pins": (CHECKOUT / "constraints.txt").read_text("utf-8"), "requirements": requirements(CHECKOUT, extras)}
    try:
        found = Found.model_validate(given["found"])
        wanted = Wanted.model_validate({**given["wanted"], "folder": given["wanted"].get("folder") or None, **own})
    except ValidationError as error:
        raise _not_as_called(error) from None
    print(decide(found, wanted).model_dump_json())


@app.command("uv")
def uv(
    system: Annotated[str, typer.Argument(help="What `uname -s` says there; Windows.")],
    machine: Annotated[str, typer.Argument(help="What `uname -m` says there; AMD64, ARM64.")],
    cache: Annotated[Path, typer.Argument(help="Where it goes.")],
    version: Annotated[str, typer.Option(help="Which uv is downloaded.")],
    wheels: Annotated[str, typer.Option(help="A folder of wheels; with it nothing is downloaded.")] = "",
) -> None:
    """Take uv for a machine out of its wheel and say where it is."""
    from smolcluster.provision.uv import fetch_uv

    program = fetch_uv(system, machine, cache, version, Path(wheels) if wheels else None)
    print(json.dumps({"schema": 1, "uv": str(program)}))


@app.command("report")
def report(folder: Annotated[Path, typer.Argument(help="Where setup.json goes.")]) -> None:
    """Read what came of each machine and write it down, without secrets."""
    import datetime

    from pydantic import ValidationError

    from smolcluster.observe.anonymous import without_secrets
    from smolcluster.provision.report import Asked, setup_of
    from smolcluster.runtime.runfolder import write_atomic

    try:
        asked = Asked.model_validate_json(sys.stdin.read())
    except ValidationError as error:
        raise _not_as_called(error) from None
    told = setup_of(asked, datetime.datetime.now(datetime.UTC), without_secrets)
    write_atomic(folder / "setup.json", told.model_dump_json(by_alias=True, indent=2) + "\n")


def _not_as_called(error: ValidationError) -> InputError:
    from smolcluster.errors import InputError, Problem

    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return InputError([Problem("", 0, where, str(first["msg"]), "call it as setup.yml does")])
