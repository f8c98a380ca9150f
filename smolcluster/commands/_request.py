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

from smolcluster.errors import ConfigError
from smolcluster.spec.clusterfile import CLUSTER_FILES
from smolcluster.spec.document import read_document
from smolcluster.spec.recognise import recognise
from smolcluster.spec.request import Request

DEFAULT_INVENTORY = Path("inventory/local.smol.yml")
DEFAULT_STRATEGY = ""  # the one a cluster YAML of the flags is for, else fsdp
DEFAULT_MODEL = "gpt"

InventoryOption = Annotated[
    Path, typer.Option("-i", "--inventory", help="The inventory file, or a cluster YAML that names machines.")
]
StrategyOption = Annotated[
    str,
    typer.Option(
        "--strategy",
        help="single, classicdp, fsdp, ... [default: what the cluster YAML is for, else fsdp]",
        show_default=False,
    ),
]
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
        strategy=strategy or _strategy_of(cluster_config) or _strategy_of(inventory) or "fsdp",
        model=model,
        dataset=dataset or None,
        config=config,
        cluster_config=cluster_config,
        nodes=tuple(name for name in (part.strip() for part in (nodes or "").split(",")) if name),
        overrides=tuple(override or ()),
    )


def _strategy_of(path: Path | None) -> str | None:
    """The strategy a cluster YAML is for; None for anything else. What is wrong with the file is told later."""
    if path is None:
        return None
    try:
        kind = recognise(read_document(path).data)
    except ConfigError:
        return None
    return kind if kind in CLUSTER_FILES else None


def print_notes(notes: Iterable[str]) -> None:
    """Notes go to stderr: stdout is for what other programs read."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
