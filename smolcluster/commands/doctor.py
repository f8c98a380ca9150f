"""`doctor`: what check.yml's machines said, read; what is wrong; predictions for every strategy; what to change.

It asks no machine: check.yml does, and gives it what they said.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smolcluster.commands._inventory import default_inventory
from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    ConfigOption,
    DatasetOption,
    InventoryOption,
    ModelOption,
    NodesOption,
    OverrideOption,
    ProfileOption,
    StrategyOption,
)

if TYPE_CHECKING:
    from smolcluster.doctor.report import Check

MOST_DAYS = 7.0
FoundArgument = Annotated[
    Path | None,
    typer.Argument(help="What check.yml's machines said, as JSON; - for stdin.", show_default="nobody was asked"),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write check.json into this folder.")]
ServeOption = Annotated[
    str | None,
    typer.Option(
        "--serve", help="Predict serving for this model, as inference.yml takes it.", show_default="the trained one"
    ),
]
DaysOption = Annotated[float, typer.Option("--days", help="An older profile.json is told to be old.")]


def doctor(
    found: FoundArgument = None,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    strategy: StrategyOption = None,
    model: ModelOption = DEFAULT_MODEL,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    nodes: NodesOption = None,
    override: OverrideOption = None,
    profile: ProfileOption = None,
    out: OutOption = None,
    days: DaysOption = MOST_DAYS,
    serve: ServeOption = None,
) -> None:
    """Say what is wrong with the machines, what each strategy would make of them, and what to change to gain most.

    Exit code 2 for bad configs, 3 where a run with these machines could not start.
    """
    from rich.console import Console

    from smolcluster.commands._doctor import Asked, checked
    from smolcluster.observe.checked import show
    from smolcluster.runtime.runfolder import write_atomic
    from smolcluster.spec.clusterfile import AUTO

    inventory = inventory or default_inventory()
    # What train.yml would choose them from: all are looked at, and what pays to leave out is told as a change to make.
    nodes = None if (nodes or "").strip() == AUTO else nodes
    asked = Asked(
        inventory, strategy or "fsdp", model, dataset, config, nodes, tuple(override or ()), profile, days, serve
    )
    check: Check = checked(asked, _said(found), datetime.datetime.now(datetime.UTC))
    if out is not None:
        write_atomic(out / "check.json", check.model_dump_json(by_alias=True, indent=2) + "\n")
    show(Console(), check, asked.measure)
    if check.blocked:
        raise typer.Exit(3)


def _said(found: Path | None) -> Mapping[str, Any] | None:
    """What was handed over: `machines`, what each said by name, and `pairs_failed`, the words of `network pairs` if it
    failed. None where nobody was asked. ConfigError for what is no such JSON."""
    from smolcluster.errors import ConfigError, Problem

    if found is None:
        return None
    name = "standard input" if str(found) == "-" else str(found)
    try:
        text = sys.stdin.read() if str(found) == "-" else found.read_text(encoding="utf-8")
        said = json.loads(text)
    except OSError as error:
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {error.strerror}", "check the path")]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem(name, 0, "", f"is no JSON: {error}", "run check.yml again")]) from None
    if not isinstance(said, dict) or not isinstance(said.get("machines"), dict):
        raise ConfigError([Problem(name, 0, "machines", "is missing", "give what check.yml's machines said")])
    return said
