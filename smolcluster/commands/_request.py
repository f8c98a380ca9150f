"""The flags that check, plan, prepare and train share, and the Request they make.

def check(inventory: InventoryOption = DEFAULT_INVENTORY, strategy: StrategyOption = DEFAULT_STRATEGY, ...):
    request = request_from(inventory, strategy, model, dataset, config, cluster_config, nodes, override)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from smolcluster.spec.request import Request

DEFAULT_INVENTORY = Path("inventory/local.smol.yml")
DEFAULT_STRATEGY = "fsdp"
DEFAULT_MODEL = "gpt"

InventoryOption = Annotated[
    Path, typer.Option("-i", "--inventory", help="The inventory file, or a cluster YAML that names machines.")
]
StrategyOption = Annotated[str, typer.Option("--strategy", help="single, classicdp, fsdp, edp, syncps, mp or diloco.")]
ModelOption = Annotated[str, typer.Option("--model", help="gpt or nn.")]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="pydoc, wikitext2, snli, mnist, or your own text file or folder.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="A model config, laid over the shipped one.")]
ClusterConfigOption = Annotated[
    Path | None, typer.Option("--cluster-config", help="A cluster config, laid over the shipped one.")
]
NodesOption = Annotated[str | None, typer.Option("--nodes", help="Only these machines, a,b.")]
OverrideOption = Annotated[
    list[str] | None, typer.Option("--override", help="key=value, as training.batch_size=16. May be repeated.")
]


def request_from(
    inventory: Path = DEFAULT_INVENTORY,
    strategy: str = DEFAULT_STRATEGY,
    model: str = DEFAULT_MODEL,
    dataset: str | None = None,
    config: Path | None = None,
    cluster_config: Path | None = None,
    nodes: str | None = None,
    override: list[str] | None = None,
) -> Request:
    """The Request of those flags."""
    return Request(
        inventory=inventory,
        strategy=strategy,
        model=model,
        dataset=dataset or None,
        config=config,
        cluster_config=cluster_config,
        nodes=tuple(name for name in (part.strip() for part in (nodes or "").split(",")) if name),
        overrides=tuple(override or ()),
    )


def print_notes(notes: Iterable[str]) -> None:
    """Notes go to stderr: stdout is for what other programs read."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
