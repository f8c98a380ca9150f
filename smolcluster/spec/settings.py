"""All layers of a request read, validated one by one, and laid together: the run's two files as one object each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.clusterfile import CLUSTER_FILES, CommonFile
from smolcluster.spec.document import Document, Tree, display, read_document
from smolcluster.spec.layers import Merged, canonical_model, canonical_port, merge
from smolcluster.spec.modelfile import MODEL_FILES, TrainedModelFile
from smolcluster.spec.overrides import cut, flag, override
from smolcluster.spec.pretrained import CONFIG, Pretrained, read_pretrained
from smolcluster.spec.problems import explain
from smolcluster.spec.recognise import recognise, wrong_file
from smolcluster.spec.request import Request
from smolcluster.spec.resumed import cluster_layer, model_layer, taken
from smolcluster.spec.shipped import FILE_MODELS, overlays, shipped
from smolcluster.spec.start import SHAPE
from smolcluster.spec.validate import known_keys


@dataclass(frozen=True)
class Settings:
    """The cluster's and the model's settings with the place each key came from."""

    cluster: CommonFile
    cluster_from: Merged
    model: TrainedModelFile
    model_from: Merged
    notes: tuple[str, ...]
    inputs: dict[str, str]
    start: Pretrained | None = None


@dataclass
class _Layers:
    """Layers while they are collected, lowest first."""

    cluster: list[Document]
    model: list[Document]
    notes: list[str]
    inputs: dict[str, str]
    problems: list[Problem]

    def attempt(self, read: Callable[[], Document]) -> Document | None:
        """Read one document; keep its Problems and go on."""
        try:
            document = read()
        except ConfigError as error:
            self.problems += error.problems
            return None
        self.notes += document.notes
        if document.sha256:
            self.inputs[document.file] = document.sha256
        return document


def gather(request: Request, inventory: Document | None) -> tuple[Settings | None, list[Problem]]:
    """Every layer's settings. `inventory` None means it could not be read; the other files are still checked."""
    layers = _Layers([], [], [], {}, [])
    _add_files(layers, request)
    if inventory is not None:
        layers.inputs[inventory.file] = inventory.sha256
        if recognise(inventory.data) not in CLUSTER_FILES:
            _add_cut(layers, inventory.section("defaults"), request, lenient=True)
        elif request.cluster_config is None:
            # The file names the machines; of its settings those hold that this strategy has too.
            layers.cluster.append(inventory.only(known_keys(CLUSTER_FILES[request.strategy])))
    _add_earlier(layers, request)
    start = _add_start(layers, request)
    _add_flag_files(layers, request)
    _add_flags(layers, request)
    cluster_model, model_model = CLUSTER_FILES[request.strategy], MODEL_FILES[request.model]
    for document in layers.cluster:
        layers.problems += _check(document, cluster_model)
    for document in layers.model:
        layers.problems += _check(document, model_model) or _clipping_twice(document)
    if layers.problems:
        return None, layers.problems
    cluster = merge([canonical_port(document) for document in layers.cluster])
    model = merge([canonical_model(document) for document in layers.model])
    settings = Settings(
        cluster_model.model_validate(cluster.data),
        cluster,
        model_model.model_validate(model.data),
        model,
        tuple(layers.notes),
        layers.inputs,
        start,
    )
    return settings, []


def _add_files(layers: _Layers, request: Request) -> None:
    """The shipped YAMLs and the overlays beside the inventory; overlays this run does not use are checked too."""
    own, problems = overlays(request.inventory)
    layers.problems += problems
    used = {f"cluster_config_{request.strategy}.yaml": layers.cluster, f"{request.model}_config.yaml": layers.model}
    for name, target in used.items():
        base = shipped(name)
        if base is not None:
            layers.inputs[base.file] = base.sha256
            target.append(base)
    for name, document in own.items():
        if name in used:
            layers.attempt(lambda document=document: document)  # type: ignore[misc]
            used[name].append(document)
        else:
            layers.problems += _check(document, FILE_MODELS[name])


def _add_earlier(layers: _Layers, request: Request) -> None:
    """The settings of the run that is resumed: above what every run shares, below what was said for this one."""
    earlier = request.earlier
    if earlier is None:
        return
    layers.inputs[display(earlier.file)] = earlier.sha256
    layers.cluster.append(cluster_layer(earlier, request.strategy))
    if request.model == earlier.run.model.type:  # another model is refused when both plans are there
        layers.model.append(model_layer(earlier))
        layers.notes.append(taken(earlier))


def _add_start(layers: _Layers, request: Request) -> Pretrained | None:
    """The weights to start from say the model's shape and bring a tokenizer: more than files that every run shares say,
    less than what was given for this run."""
    if request.init is None:
        return None
    if request.model != "gpt":
        what = f"weights to start from are a GPT's; this run's model is {request.model}"
        layers.problems.append(Problem(f"--init {request.init}", 0, "", what, "leave --init or --model away"))
        return None
    try:
        start = read_pretrained(request.init)
    except ConfigError as error:
        layers.problems += error.problems
        return None
    layers.inputs[str(start.folder / CONFIG)] = start.sha256
    tree: Tree = {"model": {key: getattr(start.spec, key) for key in SHAPE}}
    if start.tokenizer:
        tree["data"] = {"tokenizer": str(start.folder)}
    layers.model.append(flag("--init", str(request.init), tree))
    return start


def _add_flag_files(layers: _Layers, request: Request) -> None:
    wanted: tuple[tuple[Path | None, str, str, list[Document], type[BaseModel]], ...] = (
        (request.config, "--config", request.model, layers.model, MODEL_FILES[request.model]),
        (request.cluster_config, "--cluster-config", request.strategy, layers.cluster, CLUSTER_FILES[request.strategy]),
    )
    for path, name, kind, target, model in wanted:
        if path is None:
            continue
        document = layers.attempt(lambda path=path: read_document(path))  # type: ignore[misc]
        if document is None:
            continue
        mistaken = wrong_file(document, kind, name, known_keys(model))  # type: ignore[arg-type]
        if mistaken is not None:
            layers.problems.append(mistaken)
        else:
            target.append(document)


def _add_flags(layers: _Layers, request: Request) -> None:
    if request.dataset is not None:
        layers.model.append(flag("--dataset", request.dataset, {"data": {"dataset": request.dataset, "path": None}}))
    if request.nodes:
        layers.cluster.append(flag("--nodes", ",".join(request.nodes), {"nodes": list(request.nodes)}))
    # A data set that is named lets go of a path from below: of two flags said together neither is below the other.
    for text in sorted(request.overrides, key=lambda text: text.startswith("data.path=")):
        document = layers.attempt(lambda text=text: override(text))  # type: ignore[misc]
        if document is not None:
            _add_cut(layers, document, request, lenient=False)


def _add_cut(layers: _Layers, document: Document, request: Request, lenient: bool) -> None:
    model, cluster, problems = cut(document, request.strategy, request.model, lenient)
    layers.problems += problems
    for part, target in ((model, layers.model), (cluster, layers.cluster)):
        if part.data:
            target.append(part)


def _check(document: Document, model: type[BaseModel]) -> list[Problem]:
    try:
        model.model_validate(document.data)
    except ValidationError as error:
        return explain(error, document, model)
    return []


def _clipping_twice(document: Document) -> list[Problem]:
    """gradient_clipping and grad_clip_norm are one setting: one file may say it twice, but not two things."""
    training, clipping = document.data.get("training", {}), document.data.get("gradient_clipping", {})
    if "grad_clip_norm" not in training or not clipping:
        return []
    norm = training["grad_clip_norm"]
    enabled, max_norm = clipping.get("enabled", True), clipping.get("max_norm", norm)
    if enabled == (norm is not None) and (norm is None or max_norm == norm):
        return []
    what = "and gradient_clipping are one setting, and here they disagree"
    return [document.problem(("training", "grad_clip_norm"), what, "keep one of the two")]
