"""`check`: read every file, apply every rule, report every problem. Starts nothing."""

from __future__ import annotations

from pathlib import Path

from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    DEFAULT_STRATEGY,
    ClusterConfigOption,
    ConfigOption,
    DatasetOption,
    DownloadOption,
    InitOption,
    InventoryOption,
    ModelOption,
    NodesOption,
    OverrideOption,
    ProfileOption,
    StrategyOption,
    print_notes,
    request_from,
)
from smolcluster.spec.request import Request


def check(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    strategy: StrategyOption = DEFAULT_STRATEGY,
    model: ModelOption = DEFAULT_MODEL,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    cluster_config: ClusterConfigOption = None,
    nodes: NodesOption = None,
    override: OverrideOption = None,
    init: InitOption = None,
    profile: ProfileOption = None,
    download: DownloadOption = False,
) -> None:
    """Check inventory and configs, and say what a run would be. Exit code 2 with every problem found."""
    request = request_from(inventory, strategy, model, dataset, config, cluster_config, nodes, override, init)
    if request.strategy == "inference":
        _check_serving(request, profile, download)
    else:
        _check_training(request, profile)


def _check_training(request: Request, profile: Path | None) -> None:
    from smolcluster.commands._profile import plan_training

    _, plan = plan_training(request, profile)
    print_notes(plan.notes)
    machines = ", ".join(dict.fromkeys(rank.node for rank in plan.ranks))
    noun = "rank" if plan.world_size == 1 else "ranks"
    print(
        f"ok: {plan.run.strategy} on {plan.cluster}: {plan.world_size} {noun} ({machines}), transport {plan.transport}"
    )
    print(f"    {plan.run.model.type}, {plan.params:,} parameters, {plan.global_batch} samples a step")


def _check_serving(request: Request, profile: Path | None, download: bool) -> None:
    from smolcluster.commands._serving import plan_serving

    _, plan = plan_serving(request, profile, download)
    print_notes(plan.notes)
    serve = plan.serve
    stages = ", ".join(f"{plan.machine(stage.rank)} {stage.start}:{stage.stop}" for stage in plan.stages)
    print(f"ok: {serve.model_name} on {plan.cluster}: {stages}; API and page on {plan.ranks[plan.api.rank].node}")
    print(f"    {plan.params:,} parameters in {serve.model.precision}, context {serve.model.ctx_length}")
