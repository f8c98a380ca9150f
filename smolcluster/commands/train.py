"""`python -m smolcluster.train`: train on this machine, without a playbook; with no arguments, alone."""

from __future__ import annotations

import typer

from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    ClusterConfigOption,
    ConfigOption,
    DatasetOption,
    InitOption,
    InventoryOption,
    ModelOption,
    NodesOption,
    OverrideOption,
    ProfileOption,
    ResumeOption,
    StrategyOption,
    print_notes,
    request_from,
    runs_here,
)

DEFAULT_STRATEGY = "single"


def train(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    strategy: StrategyOption = None,
    model: ModelOption = DEFAULT_MODEL,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    cluster_config: ClusterConfigOption = None,
    nodes: NodesOption = None,
    override: OverrideOption = None,
    init: InitOption = None,
    resume: ResumeOption = None,
    profile: ProfileOption = None,
) -> None:
    """Train on this machine. Machines elsewhere are the playbook's: ansible-playbook train.yml -e strategy=NAME."""
    from smolcluster.commands._continues import continued
    from smolcluster.commands._here import require_local
    from smolcluster.commands._profile import plan_training
    from smolcluster.commands._resume import resuming
    from smolcluster.commands._tracking import tracking
    from smolcluster.commands._train_here import lay_out, run_in_processes, run_in_this_process
    from smolcluster.commands.report import report_on

    before = resuming(resume, runs_here(inventory)) if resume is not None else None
    if strategy is None and (before is None or before.earlier is None):
        strategy = DEFAULT_STRATEGY
    request = request_from(
        inventory, strategy, model, dataset, config, cluster_config, nodes, override, init, whole=True, resume=before
    )
    resolved, plan = plan_training(request, profile)
    require_local(resolved.cluster, plan, "trains", f"train.yml -e strategy={plan.run.strategy}")
    found = before.found if before is not None else None
    plan = continued(found, plan) if found is not None else plan
    print_notes(plan.notes)
    run = lay_out(resolved, plan, found.path if found is not None else None)
    with tracking(run.folder, plan):
        code = run_in_this_process(run, plan) if plan.world_size == 1 else run_in_processes(run, plan)
        summary = report_on(run.folder.path, html=True)
    if plan.run.recovery.elastic or plan.shape == "STAR":  # whoever was lost ended badly, and the run may be complete
        code = summary.exit_code
    if code:
        raise typer.Exit(summary.exit_code or code)
