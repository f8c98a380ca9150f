"""`plan`: what every rank would do, as JSON; with --render also every host's files. Starts nothing.

With --strategy inference it is the plan of a served model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

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
    print_notes,
    request_from,
    runs_here,
)
from smolcluster.plan.types import Plan, ServePlan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.request import Request

RenderOption = Annotated[
    Path | None, typer.Option("--render", help="Also write every host's node.yaml and unit file below this folder.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write the plan to this file instead of stdout.")]


def plan(
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
    out: OutOption = None,
    render: RenderOption = None,
    profile: ProfileOption = None,
    measure: MeasureOption = False,
    download: DownloadOption = False,
    cache: CacheOption = None,
) -> None:
    """Print the plan as JSON. The same inputs give the same bytes. Notes go to stderr."""
    from smolcluster.commands._continues import continued
    from smolcluster.commands._resume import resuming
    from smolcluster.jobs.preview import preview
    from smolcluster.runtime.runfolder import write_atomic

    before = resuming(resume, runs_here(inventory), elsewhere=True) if resume is not None else None
    request = request_from(
        inventory, strategy, model, dataset, config, cluster_config, nodes, override, init, resume=before
    )
    made, cluster = _made(request, profile, measure, download, cache)
    if before is not None and before.found is not None and type(made) is Plan:
        made = continued(before.found, made)
    print_notes(made.notes)
    if render is not None:
        for file in preview(made, cluster):
            write_atomic(render / file.path, file.text.encode(file.encoding))
    if out is not None:
        write_atomic(out, made.to_json())
    else:
        sys.stdout.write(made.to_json())


def _made(
    request: Request, profile: Path | None, measure: bool, download: bool, cache: Path | None
) -> tuple[Plan | ServePlan, ClusterSpec]:
    if request.strategy == "inference":
        from smolcluster.commands._serving import MODELS, plan_serving

        served, plan = plan_serving(request, profile, download, cache or MODELS)
        return plan, served.cluster
    from smolcluster.commands._profile import plan_training

    resolved, made = plan_training(request, profile, measure)
    return made, resolved.cluster
