"""`prepare`: make the data folder of a run, or the folder of a served model, once.

Ansible calls it on the controller and ships what it made.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    DEFAULT_STRATEGY,
    CacheOption,
    ClusterConfigOption,
    ConfigOption,
    DatasetOption,
    DownloadOption,
    InitOption,
    InventoryOption,
    MeasureOption,
    ModelOption,
    NodesOption,
    OverrideOption,
    ProfileOption,
    ResumeOption,
    StrategyOption,
    request_from,
    runs_here,
)
from smolcluster.spec.request import Request

DATA = Path(".cache/data")


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
    cache: CacheOption = None,
    profile: ProfileOption = None,
    measure: MeasureOption = False,
    download: DownloadOption = False,
) -> None:
    """Tokenise the text of a run into a data folder; print {"data_dir": ..., "init_dir": ...} as the last line.

    To serve: put what a node needs of the model into a folder; the line is {"model_dir": ..., "model_hash": ...}.
    A second call finds what the first one made. What is taken, and under which licence, goes to stderr.
    """
    from smolcluster.commands._resume import resuming

    before = resuming(resume, runs_here(inventory), elsewhere=True) if resume is not None else None
    request = request_from(
        inventory, strategy, model, dataset, config, cluster_config, nodes, override, init, whole=True, resume=before
    )
    if request.strategy == "inference":
        from smolcluster.commands._serving import MODELS, prepare_model, resolve_here

        cache = (cache or MODELS).absolute()
        folder, digest = prepare_model(resolve_here(request, download, cache), cache, _say)
        print(json.dumps({"model_dir": str(folder), "model_hash": digest}))
    else:
        _prepare_data(request, (cache or DATA).absolute(), profile, measure)


def _prepare_data(request: Request, cache: Path, profile: Path | None, measure: bool) -> None:
    from smolcluster.commands._profile import plan_training
    from smolcluster.data import prepare_data
    from smolcluster.data.weights import prepare_weights

    resolved, plan = plan_training(request, profile, measure)
    folder = prepare_data(resolved.run, cache, _say, plan.global_batch)
    weights = prepare_weights(resolved.run, folder, cache, _say)
    print(json.dumps({"data_dir": str(folder), "init_dir": str(weights) if weights else None}))


def _say(line: str) -> None:
    print(line, file=sys.stderr)
