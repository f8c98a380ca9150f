"""`prepare`: make the data folder of a run, once. Ansible calls it on the controller and ships what it made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    DEFAULT_STRATEGY,
    ClusterConfigOption,
    ConfigOption,
    DatasetOption,
    InitOption,
    InventoryOption,
    ModelOption,
    NodesOption,
    OverrideOption,
    ResumeOption,
    StrategyOption,
    request_from,
    runs_here,
)

CacheOption = Annotated[Path, typer.Option("--cache", help="Where data folders are kept, each under its own hash.")]


def prepare(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    strategy: StrategyOption = DEFAULT_STRATEGY,
    model: ModelOption = DEFAULT_MODEL,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    cluster_config: ClusterConfigOption = None,
    nodes: NodesOption = None,
    override: OverrideOption = None,
    init: InitOption = None,
    resume: ResumeOption = None,
    cache: CacheOption = Path(".cache/data"),
) -> None:
    """Tokenise the text of a run into a data folder; print {"data_dir": ..., "init_dir": ...} as the last line.

    A second call finds what the first one made. What is taken, and under which licence, goes to stderr.
    """
    from smolcluster.commands._resume import resuming
    from smolcluster.data import prepare_data
    from smolcluster.data.weights import prepare_weights
    from smolcluster.plan import make_plan
    from smolcluster.spec import resolve

    before = resuming(resume, runs_here(inventory), elsewhere=True) if resume is not None else None
    request = request_from(
        inventory, strategy, model, dataset, config, cluster_config, nodes, override, init, whole=True, resume=before
    )
    resolved = resolve(request)
    plan = make_plan(resolved.cluster, resolved.run, resolved.notes, resolved.inputs)
    folder = prepare_data(resolved.run, cache.absolute(), _say, plan.global_batch)
    weights = prepare_weights(resolved.run, folder, cache.absolute(), _say)
    print(json.dumps({"data_dir": str(folder), "init_dir": str(weights) if weights else None}))


def _say(line: str) -> None:
    print(line, file=sys.stderr)
