"""`profile`: measure the machines of this inventory and the links between them, for plans to go by."""

from __future__ import annotations

import typer

from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    DEFAULT_STRATEGY,
    ClusterConfigOption,
    ConfigOption,
    DatasetOption,
    InventoryOption,
    ModelOption,
    NodesOption,
    OverrideOption,
    StrategyOption,
    print_notes,
    request_from,
)


def profile(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    strategy: StrategyOption = DEFAULT_STRATEGY,
    model: ModelOption = DEFAULT_MODEL,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    cluster_config: ClusterConfigOption = None,
    nodes: NodesOption = None,
    override: OverrideOption = None,
) -> None:
    """Measure tokens/s of each machine and the speed of each link, all at the same time, and write profile.json.

    With the model and batch of the run that these flags describe. It goes beside the inventory, where plans look for
    it. Machines elsewhere are the playbook's: ansible-playbook train.yml -e profile=true.
    """
    from smolcluster.commands._here import require_local
    from smolcluster.commands._profile import plan_training, profile_of
    from smolcluster.commands._train_here import lay_out, run_in_processes
    from smolcluster.commands.report import report_on
    from smolcluster.runtime.runfolder import write_atomic

    request = request_from(inventory, strategy, model, dataset, config, cluster_config, nodes, override)
    resolved, plan = plan_training(request, measure=True)
    print_notes(plan.notes)
    require_local(resolved.cluster, plan, "measures", "train.yml -e profile=true")
    run = lay_out(resolved, plan)
    code = run_in_processes(run, plan)
    summary = report_on(run.folder.path)
    if code or summary.exit_code:
        raise typer.Exit(summary.exit_code or code)
    kept = profile_of(request.inventory)
    write_atomic(kept, run.folder.profile.read_bytes())
    typer.echo(f"profile: {kept}; plans of this inventory go by it")
