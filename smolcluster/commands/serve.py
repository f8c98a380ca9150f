"""`python -m smolcluster serve`: serve a model on this machine, without a playbook."""

from __future__ import annotations

from typing import Annotated

import typer

from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    CacheOption,
    ClusterConfigOption,
    DownloadOption,
    InventoryOption,
    NodesOption,
    OverrideOption,
    ProfileOption,
    print_notes,
    request_from,
)

ServedModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A name in model_config_inference.yaml or model_weights.yaml, a model folder, a hub id.",
        show_default="the inventory's or the cluster YAML's model_name",
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=0,
        max=65535,
        help="The API's port, 0 for any free one.",
        show_default="web_interface.api_port: 8080",
    ),
]


def serve(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    model: ServedModelOption = DEFAULT_MODEL,
    cluster_config: ClusterConfigOption = None,
    nodes: NodesOption = None,
    override: OverrideOption = None,
    port: PortOption = None,
    profile: ProfileOption = None,
    download: DownloadOption = False,
    cache: CacheOption = None,
) -> None:
    """Serve a model on this machine until Ctrl-C. Elsewhere: ansible-playbook inference.yml.

    It says where API and page are once they answer.
    """
    from smolcluster.commands._here import require_local
    from smolcluster.commands._serve_here import lay_out_serving
    from smolcluster.commands._serve_here import serve as serve_here
    from smolcluster.commands._serving import MODELS, export_for_tablets, plan_serving, prepare_model, require_exporters
    from smolcluster.commands.report import report_on

    settings = [*(override or ()), *([f"web_interface.api_port={port}"] if port is not None else ())]
    request = request_from(inventory, "inference", model, None, None, cluster_config, nodes, settings)
    folder = (cache or MODELS).absolute()
    served, plan = plan_serving(request, profile, download, folder)
    print_notes(plan.notes)
    require_local(served.cluster, plan, "serves", "inference.yml")
    require_exporters(plan)
    kept, _ = prepare_model(served, folder, lambda line: typer.echo(line, err=True))
    exports = export_for_tablets(plan, kept, folder.parent / "tablet", lambda line: typer.echo(line, err=True))
    run = lay_out_serving(served.cluster, plan, kept, exports)
    serve_here(run, plan)
    raise typer.Exit(report_on(run.folder.path).exit_code)
