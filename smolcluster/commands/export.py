"""`export-coreml` and `export-onnx`: a stage's layers as what a tablet's app, or its browser, computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._request import DEFAULT_INVENTORY, DownloadOption, InventoryOption, request_from
from smolcluster.errors import InputError, Problem

if TYPE_CHECKING:
    from smolcluster.models.decoder import Decoder
    from smolcluster.tablet.export import Exported

PRECISIONS = ("fp16", "int8", "int4")
CACHE = Path(".cache/tablet")

StageModelOption = Annotated[
    str, typer.Option("--model", help="A name in model_weights.yaml, a model folder, a hub id.")
]
LayersOption = Annotated[str, typer.Option("--layers", help='The stage\'s, half-open: "4:8".')]
OutOption = Annotated[Path, typer.Option("--out", help="Where exports are kept, each under its own hash.")]
PositionsOption = Annotated[
    int | None,
    typer.Option("--context", help="Positions in a session's cache.", show_default="the model's, 2048 at most"),
]
VerifyOption = Annotated[
    bool,
    typer.Option("--verify", help="Compute with it, and compare with torch on the hidden states of random tokens."),
]


def export_coreml(
    model: StageModelOption,
    layers: LayersOption,
    out: OutOption = CACHE,
    precision: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(PRECISIONS)}.")] = "fp16",
    context: PositionsOption = None,
    lengths: Annotated[str, typer.Option(help="Tokens that it takes at once; a prompt goes in pieces.")] = "1,8,64",
    verify: VerifyOption = False,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    download: DownloadOption = False,
) -> None:
    """A stage's layers as a Core ML package for an iPad (iOS 18): made once, with a cache of keys and values inside."""
    problems = []
    if precision not in PRECISIONS:
        problems.append(
            Problem("", 0, "--precision", f'"{precision}" is none', f"write one of {', '.join(PRECISIONS)}")
        )
    counts = [int(part) if part.strip().isdecimal() else 0 for part in lengths.split(",")]
    if not all(1 <= count <= 512 for count in counts):
        problems.append(
            Problem("", 0, "--lengths", f'"{lengths}" are no numbers of 1 to 512', "write --lengths 1,8,64")
        )
    if problems:
        raise InputError(problems)
    from smolcluster.tablet.coreml import coremltools
    from smolcluster.tablet.export import export_coreml as export

    coremltools()  # what is not installed is said before gigabytes are read
    decoder, folder, positions = _stage(model, layers, context, inventory, download)
    exported = export(decoder, Path(model).name, positions, out, precision, counts)  # type: ignore[arg-type]
    _tell(exported, decoder, folder, verify)


def export_onnx(
    model: StageModelOption,
    layers: LayersOption,
    out: OutOption = CACHE,
    context: PositionsOption = None,
    verify: VerifyOption = False,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    download: DownloadOption = False,
) -> None:
    """A stage's layers as an ONNX file for a tablet's browser: made once, in float32, the cache goes in and out."""
    from smolcluster.tablet.export import export_onnx as export

    decoder, folder, positions = _stage(model, layers, context, inventory, download)
    _tell(export(decoder, Path(model).name, positions, out), decoder, folder, verify)


def export_stages(
    plan: Annotated[Path | None, typer.Option(help="A served model's plan.json.")] = None,
    model: Annotated[Path | None, typer.Option(help="The folder of its model.")] = None,
    out: OutOption = CACHE,
    check: Annotated[str, typer.Option(help="Only see whether these formats can be made here: coreml,onnx.")] = "",
) -> None:
    """Export the layers of a plan's tablets, each once: a line `exported FOLDER` for one that was made now, else
    `found FOLDER`. The role tablet_export calls it.
    """
    from smolcluster.plan.types import ServePlan
    from smolcluster.tablet.stages import export_all, require_packages

    if check:
        require_packages(part for part in check.split(",") if part)
        return
    if plan is None or model is None:
        raise InputError([Problem("", 0, "--plan", "and --model are needed", "name both, or --check alone")])
    for exported in export_all(ServePlan.model_validate_json(plan.read_bytes()), model, out).values():
        typer.echo(f"{'exported' if exported.made else 'found'} {exported.folder}")


def _stage(
    model: str, layers: str, context: int | None, inventory: Path | None, download: bool
) -> tuple[Decoder, Path, int]:
    from smolcluster.infer.weights import find_weights
    from smolcluster.spec.shipped import weights_table
    from smolcluster.tablet.export import load_for_tablet

    found = find_weights(model, weights_table(request_from(inventory).inventory), download=download)
    decoder, positions = load_for_tablet(found.folder, layers, context)
    return decoder, found.folder, positions


def _tell(exported: Exported, decoder: Decoder, folder: Path, verified: bool) -> None:
    how = "made now" if exported.made else "made before"
    typer.echo(f"{exported.file}\n  layers   {exported.manifest.layers}, {how}\n  hash     {exported.manifest.hash}")
    if verified:
        from smolcluster.models.partition import LayerRange
        from smolcluster.models.stage_weights import load_stage
        from smolcluster.tablet.verify import verify

        before = load_stage(folder, LayerRange(0, decoder.range.start, decoder.range.layers))
        typer.echo(f"  torch    {verify(exported, decoder, before)}")
