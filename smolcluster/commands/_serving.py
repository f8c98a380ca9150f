"""What the commands that serve share: the model's weights found, the plan made, the folder that nodes get."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from smolcluster.commands._inventory import naming
from smolcluster.commands._profile import certified, read_profile
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.profile import Profile
from smolcluster.plan.serve import make_serve_plan
from smolcluster.plan.types import ServePlan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.pretrained import weight_files
from smolcluster.spec.request import Request
from smolcluster.spec.served import BESIDE, Find, ModelFolder
from smolcluster.spec.serving import Served, resolve_serving
from smolcluster.spec.shape import CONFIG
from smolcluster.spec.shipped import weights_table

MODELS = Path(".cache/models")


def resolve_here(request: Request, download: bool = False, cache: Path = MODELS) -> Served:
    """The request with its weights found, or converted, or with `download` fetched. ConfigError with all Problems."""
    return resolve_serving(request, _finder(request.inventory, download, cache))


def plan_serving(
    request: Request,
    profile: Path | None = None,
    download: bool = False,
    cache: Path = MODELS,
    certify: bool = True,
    told: Callable[[ClusterSpec], ClusterSpec] | None = None,
) -> tuple[Served, ServePlan]:
    """The request resolved, and its plan. `profile` None takes profile.json beside the inventory where there is one.

    `certify`: nodes whose certificate would be refused are. `told`: the cluster with what machines said of themselves.
    ConfigError with all Problems.
    """
    with naming(request.inventory):
        served, plan = _planned(request, profile, download, cache, told)
        if certify:
            certified(plan)
        return served, plan


def _planned(
    request: Request,
    profile: Path | None,
    download: bool,
    cache: Path,
    told: Callable[[ClusterSpec], ClusterSpec] | None,
) -> tuple[Served, ServePlan]:
    problems: tuple[Problem, ...] = ()
    speeds: Profile | None = None
    inputs: dict[str, str] = {}
    try:
        speeds, inputs = read_profile(profile, request.inventory)
    except ConfigError as error:
        problems = error.problems
    try:
        served = resolve_here(request, download, cache)
    except ConfigError as error:
        raise ConfigError((*problems, *error.problems)) from None
    if problems:
        raise ConfigError(problems)
    assert served.shape is not None, "resolve_here found the weights"
    cluster = served.cluster if told is None else told(served.cluster)
    inputs = {**served.inputs, **inputs}
    plan = make_serve_plan(cluster, served.serve, served.shape, speeds, served.notes, inputs, request.ca)
    return served, plan


def prepare_model(served: Served, cache: Path, say: Callable[[str], None]) -> tuple[Path, str]:
    """A folder under `cache` with what a node needs of the model, and the hash of it, after which it is called."""
    from smolcluster.data.weights import keep_copy

    assert served.found is not None, "resolve_here found the weights"
    folder = served.found.folder
    beside = [folder / name for name in BESIDE if (folder / name).is_file()]
    final, digest = keep_copy([folder / CONFIG, *weight_files(folder), *beside], cache, "model")
    say(f"model: {folder}, a copy in {final}")
    return final, digest


def require_exporters(plan: ServePlan) -> None:
    """InputError, with what to install, where the layers that the plan's tablets load cannot be exported here."""
    if plan.tablets:
        from smolcluster.tablet.stages import formats_of, require_packages

        require_packages(formats_of(plan))


def export_for_tablets(plan: ServePlan, model: Path, out: Path, say: Callable[[str], None]) -> Path | None:
    """The folder with the layers of the plan's tablets, exported if they are not there; None where it has none."""
    if not plan.tablets:
        return None
    from smolcluster.tablet.stages import export_all

    for name, exported in export_all(plan, model, out).items():
        say(f"{name}: layers {exported.manifest.layers} {'exported to' if exported.made else 'from'} {exported.folder}")
    return out.absolute()


def _finder(inventory: Path, download: bool, cache: Path) -> Find:
    def find(name: str) -> ModelFolder:
        from smolcluster.commands.generate import find_model
        from smolcluster.infer.weights import OWNERS, find_weights
        from smolcluster.runtime.runfolder import run_at

        if Path(name).is_absolute():
            folder = find_model(run_at(Path(name)))
            return ModelFolder(folder, f"folder {folder}", OWNERS)
        found = find_weights(name, weights_table(inventory), cache, download)
        how = f", {found.how}" if found.how else ""
        print(f"weights: {name} from {found.source}{how}, licence {found.licence}", file=sys.stderr)
        return found

    return find
