"""`python -m smolcluster.train`: train on this machine, without a playbook; with no arguments, alone."""

from __future__ import annotations

from typing import Annotated

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
    StrategyOption,
    print_notes,
    request_from,
)

DEFAULT_STRATEGY = "single"

ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Start from a checkpoint: latest (of runs/latest), a run's folder, or one of its checkpoints/step-*.json."
        " The old run stays as it is.",
        show_default=False,
    ),
]


def train(
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
) -> None:
    """Train on this machine. Machines elsewhere are the playbook's: ansible-playbook train.yml -e strategy=NAME."""
    from smolcluster.commands._continues import require_continues
    from smolcluster.commands._here import require_local, workdir_of
    from smolcluster.commands._resume import checkpoint_named
    from smolcluster.commands._train_here import lay_out, run_in_processes, run_in_this_process
    from smolcluster.commands.report import report_on
    from smolcluster.plan import make_plan
    from smolcluster.spec import resolve

    request = request_from(
        inventory, strategy, model, dataset, config, cluster_config, nodes, override, init, whole=True
    )
    resolved = resolve(request)
    plan = make_plan(resolved.cluster, resolved.run, resolved.notes, resolved.inputs)
    print_notes(plan.notes)
    require_local(resolved.cluster, plan, "trains", f"train.yml -e strategy={plan.run.strategy}")
    found = checkpoint_named(resume, workdir_of(resolved.cluster, plan)) if resume is not None else None
    if found is not None:
        named = dataset is not None or any(setting.startswith("data.") for setting in override or ())
        print_notes(require_continues(found, plan, "--resume", named))
    run = lay_out(resolved, plan, found.path if found is not None else None)
    code = run_in_this_process(run, plan) if plan.world_size == 1 else run_in_processes(run, plan)
    summary = report_on(run.folder.path)
    if plan.run.recovery.elastic:  # whoever was lost ended badly, and the run may be complete
        code = summary.exit_code
    if code:
        raise typer.Exit(summary.exit_code or code)
