"""The exports that the tablets of a plan load, and what each is offered: made where the head and its weights are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from smolcluster.errors import InputError, Problem
from smolcluster.infer.about import context_of
from smolcluster.models.decoder import Decoder
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.plan.types import ServePlan, StagePlan, TabletFormat, TabletPlan
from smolcluster.tablet.coreml import coremltools
from smolcluster.tablet.export import Exported, export_coreml, export_onnx
from smolcluster.tablet.messages import Assign
from smolcluster.tablet.onnxfile import onnx_package
from smolcluster.tablet.reference import assignment

# What the hidden states are that go over: Core ML takes halves.
_DTYPES: dict[TabletFormat, str] = {"coreml": "fp16", "onnx": "fp32"}


@dataclass(frozen=True)
class Offer:
    """What a tablet is to compute, and the export it may load for that."""

    assign: Assign
    exported: Exported


def require_packages(formats: Iterable[str]) -> None:
    """InputError, with what to install, unless stages can be exported here in all these formats."""
    problems: list[Problem] = []
    for name in sorted(set(formats)):
        try:
            {"coreml": coremltools, "onnx": onnx_package}[name]()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def formats_of(plan: ServePlan) -> tuple[TabletFormat, ...]:
    """Those that the plan's tablets load."""
    return tuple(sorted({tablet.format for tablet in plan.tablets.values()}))


def export_all(plan: ServePlan, model: Path, out: Path) -> dict[str, Exported]:
    """By tablet its export below `out`, made if it is not there. `model`: the folder that is served. InputError."""
    return {
        tablet.node: _exported(plan, tablet, _loaded(plan, plan.stages[rank], model), out)
        for rank, tablet in plan.tablets.items()
    }


def offer_of(plan: ServePlan, rank: int, model: Path, out: Path) -> Offer:
    """The offer to the tablet of that rank. As a stage in torch it goes too: for tablet/reference.py."""
    tablet = plan.tablets[rank]
    decoder = _loaded(plan, plan.stages[rank], model)
    exported = _exported(plan, tablet, decoder, out)
    assign = assignment(decoder, exported.manifest.model, exported.manifest.context, _DTYPES[tablet.format])
    packages = {**assign.packages, tablet.format: exported.manifest.hash}
    return Offer(assign.model_copy(update={"packages": packages}), exported)


def _loaded(plan: ServePlan, stage: StagePlan, model: Path) -> Decoder:
    return load_stage(model, LayerRange(stage.start, stage.stop, plan.layers))


def _exported(plan: ServePlan, tablet: TabletPlan, decoder: Decoder, out: Path) -> Exported:
    name, context = Path(plan.serve.model_name).name, context_of(decoder.shape, plan)
    precision = tablet.precision
    if precision == "fp32":  # a browser's, and nobody else's: spec/cluster.py
        return export_onnx(decoder, name, context, out)
    return export_coreml(decoder, name, context, out, precision)
