"""The flags that check, plan, prepare and train share, and the Request they make.

Without -i the inventory is the one that ./ansible.cfg names for the playbooks, else inventory/local.smol.yml.

def check(inventory: InventoryOption = DEFAULT_INVENTORY, strategy: StrategyOption = DEFAULT_STRATEGY, ...):
    request = request_from(inventory, strategy, model, dataset, config, cluster_config, nodes, override)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.certs.checking import authority_fingerprint
from smolcluster.certs.places import authority_folder
from smolcluster.commands._init import find_start
from smolcluster.commands._inventory import default_inventory, naming
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.clusterfile import CLUSTER_FILES
from smolcluster.spec.document import read_document
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.overrides import separated
from smolcluster.spec.recognise import recognise
from smolcluster.spec.request import Request

if TYPE_CHECKING:
    from smolcluster.commands._resume import Resuming

DEFAULT_INVENTORY: Path | None = None  # the one ./ansible.cfg names, else the shipped one
DEFAULT_STRATEGY: str | None = None  # the one a cluster YAML of the flags is for, else fsdp
DEFAULT_MODEL: str | None = None  # that of the run that is resumed, else gpt; to serve, what the files say

InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "-i",
        "--inventory",
        help="The inventory file, or a cluster YAML that names machines.",
        show_default="the one ./ansible.cfg names, else inventory/local.smol.yml",
    ),
]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="single, fsdp, classicdp, diloco, edp, syncps or mp; to serve, inference.",
        show_default="what the cluster YAML is for, else fsdp",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="gpt or nn; to serve, a name of model_config_inference.yaml or a model folder.",
        show_default="gpt; to serve, the files' model_name",
    ),
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="To serve: ask the hub for weights that are nowhere here.")
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="Measured speeds of the machines.",
        show_default="profile.json beside the inventory, if there",
    ),
]
MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Of measuring the machines with this run's model and batch: a profile.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="pydoc, wikitext2, snli, mnist, or your own text file or folder.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="A model config, laid over the shipped one.")]
ClusterConfigOption = Annotated[
    Path | None, typer.Option("--cluster-config", help="A cluster config, laid over the shipped one.")
]
NodesOption = Annotated[str | None, typer.Option("--nodes", help="Only these machines, a,b.")]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init", help="Weights to start from: a model folder, a run, a name of model_weights.yaml, a hub id."
    ),
]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option("--override", help="key=value, as training.batch_size=16. May be repeated, or a=1,b=2."),
]


ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Go on from a checkpoint, with the settings of the run that made it where nothing else is said: latest"
        " (of runs/latest), a run's folder, or one of its checkpoints/step-*.json. The old run stays as it is.",
        show_default=False,
    ),
]

CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Where folders are kept, each under its own hash.",
        show_default=".cache/data; to serve, .cache/models",
    ),
]


def request_from(
    inventory: Path | None = DEFAULT_INVENTORY,
    strategy: str | None = DEFAULT_STRATEGY,
    model: str | None = DEFAULT_MODEL,
    dataset: str | None = None,
    config: Path | None = None,
    cluster_config: Path | None = None,
    nodes: str | None = None,
    override: list[str] | None = None,
    init: str | None = None,
    whole: bool = False,
    resume: Resuming | None = None,
) -> Request:
    """The Request of those flags. What is wrong with them it carries, to be told with what is wrong in the files;
    ConfigError where no inventory is found.

    `whole`: of an `init` on the hub the weights are fetched too, not only what describes them.
    """
    problems = [*(resume.problems if resume else ()), *([_nothing("--strategy", "fsdp")] if strategy == "" else [])]
    chosen = tuple(name for name in (part.strip() for part in (nodes or "").split(",")) if name)
    if nodes is not None and not chosen:
        problems.append(_nothing("--nodes", "node1,node2"))
    if model == "":
        problems.append(_nothing("--model", "gpt"))
    inventory = _attempt(default_inventory, problems) if inventory is None else inventory
    if inventory is None:
        raise ConfigError(problems)
    start = None
    if init == "":
        problems.append(_nothing("--init", "runs/latest"))
    elif init is not None:
        start = _attempt(lambda: find_start(init, inventory, whole), problems)
    earlier = resume.earlier if resume else None
    before = earlier.run.strategy if earlier else None
    strategy = strategy or _strategy_of(cluster_config) or _strategy_of(inventory) or before or "fsdp"
    if strategy == "inference" and problems:
        raise ConfigError(problems)
    trained = earlier.run.model.type if earlier else "gpt"
    with naming(inventory):
        authority = authority_fingerprint(authority_folder())
    return Request(
        inventory=inventory,
        strategy=strategy,
        model=model or ("" if strategy == "inference" else trained),
        dataset=dataset or None,
        config=config,
        cluster_config=cluster_config,
        nodes=chosen,
        overrides=tuple(setting for text in override or () for setting in separated(text)),
        init=start,
        earlier=earlier,
        problems=tuple(problems),
        ca=authority,
    )


def runs_here(inventory: Path | None) -> Path:
    """Where runs lie on this machine: where the first machine of the inventory that is this one has them."""
    try:
        cluster = load_inventory(inventory or default_inventory())
    except ConfigError:  # told by whoever needs the machines
        return Path("runs").absolute()
    here = (node.workdir for node in cluster.nodes if node.connection == "local")
    return Path(next(here, "runs")).expanduser().absolute()


def _attempt(find: Callable[[], Path], problems: list[Problem]) -> Path | None:
    """What is found, or None and its Problems."""
    try:
        return find()
    except ConfigError as error:
        problems += error.problems
        return None


def _nothing(flag: str, example: str) -> Problem:
    return Problem(flag, 0, "", "is empty", f"write {flag} {example}, or leave it away")


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
