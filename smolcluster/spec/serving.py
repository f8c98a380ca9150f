"""A request to serve, resolved: cluster_config_inference.yaml, the model, its stages, and where page and API are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import Field

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.base import Frozen
from smolcluster.spec.built import refuse_encryption
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.clusterfile import InferenceFile
from smolcluster.spec.consistency import address_notes, buffer_notes, check_free_port
from smolcluster.spec.document import Document
from smolcluster.spec.inventory import made_from, read_inventory
from smolcluster.spec.modelfile import MODEL_FILES, ServedModel
from smolcluster.spec.overrides import override
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.recognise import recognise
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import comm_of, recovery_of
from smolcluster.spec.run import CommSpec, RecoverySpec
from smolcluster.spec.served import SETTINGS, Choice, Find, ModelFolder, choose
from smolcluster.spec.settings import Settings, gather
from smolcluster.spec.shape import DecoderShape
from smolcluster.spec.stages import ServingStage, Split, stages_of
from smolcluster.spec.tablets import optional_of
from smolcluster.spec.validate import known_keys
from smolcluster.spec.web import api_node, check_web

DEFAULT_MODEL = "causal_gpt2"
# Sessions share room for so many whole contexts: most are far shorter than one.
CACHED_CONTEXTS = 4


class ServeSpec(Frozen):
    """What is served and by whom. Stages are in rank order; times in seconds.

    `given`: the person's `stages` say who has which layers; else the ranges here are even ones, for the plan to better.
    `source` and `licence` tell people of the weights. `cache_tokens`: room in all sessions' caches together; None:
    as many as they need. `rejoin_s`: how long a lost stage is waited for; `resume_s`: a lost client; `tablet_wait_s`: a
    tablet, which serving goes on without where it is `optional`. `api_node` None: rank 0's machine; `listen` are
    addresses of that machine.
    """

    model_name: str
    model: ServedModel
    stages: tuple[ServingStage, ...]
    api_port: int
    frontend_port: int
    request_timeout_s: float
    seed: int
    given: bool = False
    source: str = ""
    licence: str = ""
    cache_tokens: int | None = Field(default=None, gt=0)
    api_node: str | None = None
    listen: tuple[str, ...] = ("127.0.0.1",)
    comm: CommSpec = Field(default_factory=CommSpec)
    recovery: RecoverySpec = Field(default_factory=RecoverySpec)
    rejoin_s: float = Field(default=15.0, ge=0)
    resume_s: float = Field(default=20.0, ge=0)
    tablet_wait_s: float = Field(default=120.0, gt=0)
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Served:
    """A request to serve, resolved. `found` and `shape` are None where nobody looked for the weights."""

    cluster: ClusterSpec
    serve: ServeSpec
    notes: tuple[str, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)
    found: ModelFolder | None = None
    shape: DecoderShape | None = None


def resolve_serving(request: Request, find: Find) -> Served:
    """What a person wants served, with its weights. ConfigError with all Problems, also of what cannot run yet.

    `request.model` is as for `choose`; "" leaves it to the files' `model_name`.
    """
    return _resolve(request, find, runnable=True)


def resolve_any_serving(request: Request) -> Served:
    """The same without weights, and without refusing what is not built yet: to check files."""
    return _resolve(request, None, runnable=False)


def _resolve(request: Request, find: Find | None, runnable: bool) -> Served:
    of_model, others, problems = _split_overrides(request)
    problems += _of_training(request)
    asked = replace(request, strategy="inference", model="gpt", overrides=others, dataset=None, config=None, init=None)
    cluster, document = None, None
    notes: tuple[str, ...] = ()
    try:
        cluster, document, notes = read_inventory(request.inventory)
    except ConfigError as error:
        problems += error.problems
    settings, wrong = gather(asked, document)
    problems += wrong
    choice = None
    try:
        if request.model or settings is not None:
            choice = choose(request.model or _configured(settings), request.inventory, of_model, find)
    except ConfigError as error:
        problems += error.problems
    if cluster is None or document is None or settings is None:
        raise ConfigError(problems)
    file, origin = settings.cluster, settings.cluster_from
    assert isinstance(file, InferenceFile)
    split = stages_of(settings, cluster, choice.model if choice is not None else None)
    problems += split.problems
    if split.stages:
        api = api_node(file, cluster, split.stages[0].node)
        problems += check_web(file, origin, cluster, api)
    if split.stages and runnable:
        problems += refuse_encryption(file.encrypt, origin, request.ca)
        # A tablet's rank runs on rank 0's machine.
        nodes = [node for node in (cluster.node(stage.node) for stage in split.stages) if node.app is None]
        if not problems:
            problems += check_free_port(split.stages[0].port, [*nodes, cluster.node(api)], origin)
    if problems or choice is None:
        raise ConfigError(problems)
    timeout_s, timeout_notes = _request_timeout(file, settings)
    told = [
        *notes,
        *settings.notes,
        *split.notes,
        *([] if made_from(document) else address_notes(file, origin, cluster, "inference")),
        *buffer_notes(file, origin, cluster),
        *timeout_notes,
        *_training_notes(file, settings),
        *_layer_notes(file, settings, choice.model),
    ]
    inputs = settings.inputs | dict(choice.inputs or {})
    return Served(
        cluster,
        _spec(file, choice, split, api, timeout_s, cluster),
        tuple(dict.fromkeys(told)),
        dict(sorted(inputs.items())),
        choice.found,
        choice.shape,
    )


def _configured(settings: Settings | None) -> str:
    """The model that the files name."""
    named = settings.cluster.model_name if settings and isinstance(settings.cluster, InferenceFile) else None
    return named or DEFAULT_MODEL


def _spec(
    file: InferenceFile, choice: Choice, split: Split, api: str, timeout_s: float, cluster: ClusterSpec
) -> ServeSpec:
    return ServeSpec(
        model_name=choice.name,
        model=choice.model,
        stages=tuple(split.stages),
        api_port=file.web_interface.api_port,
        frontend_port=file.web_interface.frontend_port,
        request_timeout_s=timeout_s,
        seed=file.seed,
        given=split.given,
        source=choice.found.source if choice.found is not None else "",
        licence=choice.found.licence if choice.found is not None else "",
        cache_tokens=CACHED_CONTEXTS * choice.model.ctx_length,
        api_node=api,
        listen=tuple(file.web_interface.listen),
        comm=comm_of(file),
        recovery=recovery_of(file),
        rejoin_s=file.rejoin_wait,
        resume_s=file.resume_wait,
        tablet_wait_s=file.tablet_wait,
        optional=optional_of(file, [stage.node for stage in split.stages], cluster),
    )


def _split_overrides(request: Request) -> tuple[list[Document], tuple[str, ...], list[Problem]]:
    """Flags that set something of the model's entry; the other flags, which are looked at with the files; and Problems
    of those that only training has."""
    of_model: list[Document] = []
    others: list[str] = []
    problems: list[Problem] = []
    training = known_keys(MODEL_FILES["gpt"])
    for text in request.overrides:
        key = text.partition("=")[0].strip()
        if key.split(".")[0] in SETTINGS:
            try:
                of_model.append(override(text))
            except ConfigError as error:
                problems += error.problems
        elif key.split(".")[0] in training:
            what = "is a key of training, and a model is only served here"
            otherwise = f"leave it out; of the model there are {listed(sorted(SETTINGS))}"
            fix = did_you_mean(key.split(".")[-1], SETTINGS, otherwise)
            problems.append(Problem(f"--override {text}", 0, key, what, fix))
        else:
            others.append(text)
    return of_model, tuple(others), problems


def _of_training(request: Request) -> list[Problem]:
    """Flags that mean nothing here."""
    given = {"--dataset": request.dataset, "--config": request.config, "--init": request.init}
    fix = "leave it away; --model says what is served, inventory/configs/model_config_inference.yaml how"
    return [
        Problem(f"{name} {value}", 0, "", "is a flag of training, and a model is only served here", fix)
        for name, value in given.items()
        if value is not None
    ]


def _layer_notes(file: InferenceFile, settings: Settings, model: ServedModel) -> list[str]:
    """num_layers in a cluster YAML is only compared: the model's config wins."""
    if file.num_layers is None or file.num_layers == model.num_layers:
        return []
    return [
        settings.cluster_from.note(("num_layers",), file.num_layers, str(model.num_layers), "the model's config wins")
    ]


def _training_notes(file: InferenceFile, settings: Settings) -> list[str]:
    """Keys that every cluster YAML and an inventory's defaults may have, and that only training looks at."""
    notes = []
    if file.wire not in ("fp32", "auto"):
        notes.append(settings.cluster_from.note(("wire",), file.wire, "none", "serving sends no gradients"))
    if file.replicas is not None and file.replicas > 1:
        notes.append(settings.cluster_from.note(("replicas",), file.replicas, "1", "one pipeline serves a model"))
    if file.faults:
        said = listed([fault.told() for fault in file.faults])
        notes.append(settings.cluster_from.note(("faults",), said, "none", "serving has no steps to begin one at"))
    return notes


def _request_timeout(file: InferenceFile, settings: Settings) -> tuple[float, list[str]]:
    """`timeout` is the deadline of a request in an mp file; in an inference file it says nothing about requests."""
    origin = settings.cluster_from
    if file.timeout is None:
        return file.request_timeout, []
    source = origin.source(("timeout",))
    if source is not None and recognise(source.data) == "mp":
        return file.timeout, []
    taken = f"request_timeout {file.request_timeout:g}"
    return file.request_timeout, [origin.note(("timeout",), file.timeout, taken, "inference collects no gradients")]
