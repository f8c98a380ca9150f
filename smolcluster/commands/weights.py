"""`python -m smolcluster weights smollm2`: find the weights of a model to serve, converting or fetching them once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smolcluster.commands._request import DEFAULT_INVENTORY, InventoryOption, request_from


def weights(
    name: Annotated[str, typer.Argument(help="A name in model_weights.yaml, or a model folder.")],
    inventory: InventoryOption = DEFAULT_INVENTORY,
    cache: Annotated[Path, typer.Option(help="Where converted models are kept.")] = Path(".cache/models"),
    download: Annotated[bool, typer.Option("--download", help="Ask the hub if it is nowhere here.")] = False,
) -> None:
    """Say where the weights of NAME are, from which source and under which licence."""
    from smolcluster.infer.weights import find_weights
    from smolcluster.spec.shipped import weights_table

    found = find_weights(name, weights_table(request_from(inventory).inventory), cache, download)
    source = f"{found.source}, {found.how}" if found.how else found.source
    typer.echo(f"{found.folder}\n  from     {source}\n  licence  {found.licence}")
