"""A request -> ClusterSpec and RunSpec: every file read, rules applied where they differ, all Problems at once."""

from __future__ import annotations

from typing import Any

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.built import refuse_encryption, refuse_strategy
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.clusterfile import (
    CLUSTER_FILES,
    CommonFile,
    DilocoFile,
    EdpFile,
    FsdpFile,
    MpFile,
    SyncpsFile,
)
from smolcluster.spec.consistency import (
    address_notes,
    buffer_notes,
    check_counts,
    check_free_port,
    check_hosts,
    check_ranks,
    model_notes,
)
from smolcluster.spec.inventory import made_from, read_inventory
from smolcluster.spec.modelfile import MODEL_FILES
from smolcluster.spec.participants import TakingPart, taking_part
from smolcluster.spec.pipeline import pipeline_of, stage_problems
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.request import Request, Resolved
from smolcluster.spec.run import STRATEGIES, CommSpec, Participant, RecoverySpec, RunSpec
from smolcluster.spec.settings import Settings, gather
from smolcluster.spec.staleness import staleness_of
from smolcluster.spec.training import Trained, trained


def resolve(request: Request) -> Resolved:
    """The run a person asked for. ConfigError with all Problems, also of what this version cannot run yet."""
    return _resolve(request, runnable=True)


def resolve_any(request: Request) -> Resolved:
    """The same without refusing what is not built yet: for checking the files of strategies that come later."""
    return _resolve(request, runnable=False)


def _resolve(request: Request, runnable: bool) -> Resolved:
    unknown = _check_flags(request)
    if unknown:
        raise ConfigError([*request.problems, *unknown])
    problems = [*request.problems, *(refuse_strategy(request.strategy) if runnable else [])]
    if request.strategy not in CLUSTER_FILES:
        raise ConfigError(problems or refuse_strategy(request.strategy))
    cluster, document = None, None
    notes: tuple[str, ...] = ()
    try:
        cluster, document, notes = read_inventory(request.inventory)
    except ConfigError as error:
        problems += error.problems
    settings, wrong = gather(request, document)
    problems += wrong
    if settings is None:
        raise ConfigError(problems)
    training = trained(settings.model, settings.model_from, settings.start, request.earlier)
    problems += training.problems
    if cluster is None or document is None:
        raise ConfigError(problems)
    # An inventory made from this very file cannot contradict it.
    own = not made_from(document)
    found = taking_part(settings.cluster, settings.cluster_from, cluster, request.strategy)
    run, run_notes, wrong = _run(request, cluster, settings, training, found, own)
    problems += wrong
    if run is None:
        raise ConfigError(problems)
    if runnable:
        problems += refuse_encryption(run.comm.encrypt, settings.cluster_from, request.ca)
    if problems:
        raise ConfigError(problems)
    # One file can be inventory and config at once: its notes are then told once.
    told = tuple(dict.fromkeys((*notes, *settings.notes, *training.notes, *run_notes)))
    return Resolved(cluster, run, told, dict(sorted(settings.inputs.items())))


def _check_flags(request: Request) -> list[Problem]:
    problems: list[Problem] = []
    if request.strategy not in STRATEGIES:
        fix = did_you_mean(request.strategy, STRATEGIES, f"use one of {listed(STRATEGIES)}")
        problems.append(Problem(f"--strategy {request.strategy}", 0, "", "there is no such strategy", fix))
    if request.model not in MODEL_FILES:
        fix = did_you_mean(request.model, MODEL_FILES, f"use one of {listed(MODEL_FILES)}")
        problems.append(Problem(f"--model {request.model}", 0, "", "there is no such model", fix))
    return problems


def _run(
    request: Request,
    cluster: ClusterSpec,
    settings: Settings,
    training: Trained,
    found: TakingPart,
    own_inventory: bool,
) -> tuple[RunSpec | None, list[str], list[Problem]]:
    file, origin = settings.cluster, settings.cluster_from
    problems = found.problems + check_ranks(file, origin) + check_hosts(file, origin, request.strategy)
    if found.problems:
        return None, [], problems + stage_problems(file, origin, cluster, training.model)
    # What is shipped says 1, which nobody chose.
    micros = settings.model_from.height(("training", "grad_accumulation")) > 0
    pipeline = pipeline_of(
        file, origin, cluster, found.participants, bool(found.named), training, micros, request.earlier
    )
    participants = pipeline.participants
    problems += pipeline.problems
    ranks = sum(cluster.node(p.node).ranks for p in participants)
    problems += check_counts(file, origin, participants, ranks)
    problems += _check_free_ports(cluster, participants, settings)
    problems += _check_balance(file, settings, participants)
    bound, bound_notes, wrong = staleness_of(file, origin, request.earlier)
    problems += wrong
    notes = [
        *found.notes,
        *pipeline.notes,
        *(address_notes(file, origin, cluster, request.strategy) if own_inventory else []),
        *buffer_notes(file, origin, cluster),
        *model_notes(file, origin, training.model),
        *bound_notes,
    ]
    run = RunSpec(
        strategy=request.strategy,
        participants=participants,
        model=training.model,
        training=pipeline.training,
        stages=pipeline.stages,
        replicas=pipeline.replicas,
        schedule=training.schedule,
        data=training.data,
        comm=comm_of(file),
        recovery=recovery_of(file),
        seed=file.seed,
        checkpoint=training.checkpoint,
        balance=file.balance,
        choose_nodes=found.chooses,
        fsdp_stage=file.fsdp_stage if isinstance(file, FsdpFile) else 0,
        staleness_bound=bound,
        worker_update_interval=file.worker_update_interval if isinstance(file, EdpFile) else 1,
        use_quantization=file.use_quantization if isinstance(file, EdpFile) else False,
        max_staleness=file.max_staleness if isinstance(file, EdpFile) else 1000,
        syncps_timeout_s=file.timeout if isinstance(file, SyncpsFile) else 0.1,
        step_timeout_s=file.timeout if isinstance(file, MpFile) else 300.0,
        server_trains=isinstance(file, SyncpsFile) and file.server_trains,
        project_name=training.project_name,
        tracking=training.tracking,
        **outer_of(file),
        init=str(settings.start.folder) if settings.start else None,
        own_vocabulary=settings.start is not None or (request.earlier is not None and request.earlier.own_vocabulary),
        faults=tuple(file.faults),
    )
    return run, notes, problems


def comm_of(file: CommonFile) -> CommSpec:
    """How a file's ranks talk."""
    return CommSpec(
        transport=file.transport,
        wire=file.wire,
        encrypt=file.encrypt,
        buffer_mb=file.buffer_size,
        timeout_s=file.peer_timeout,
        track_network_metrics=file.track_network_metrics,
        metrics_log_interval=file.metrics_log_interval,
        metrics_port=file.metrics_port,
    )


def outer_of(file: CommonFile) -> dict[str, Any]:
    """What a file says of rounds and their outer optimizer; nothing where there are none."""
    names = ("outer_every", "outer_lr", "outer_momentum", "outer_overlap", "outer_warmup")
    return {name: getattr(file, name) for name in names} if isinstance(file, DilocoFile) else {}


def recovery_of(file: CommonFile) -> RecoverySpec:
    """What a file says of ranks that die."""
    said = file.recovery
    return RecoverySpec(max_restarts=said.max_restarts, elastic=said.elastic, elastic_wait_s=said.elastic_wait)


def _check_free_ports(cluster: ClusterSpec, participants: tuple[Participant, ...], settings: Settings) -> list[Problem]:
    """Ports of 0 that the others could not find."""
    if settings.cluster.recovery.elastic:
        return _check_elastic_ports(cluster, participants, settings)
    nodes = [cluster.node(participant.node) for participant in participants]
    return check_free_port(participants[0].port, nodes, settings.cluster_from)


def _check_elastic_ports(
    cluster: ClusterSpec, participants: tuple[Participant, ...], settings: Settings
) -> list[Problem]:
    """When rank 0 is lost any other may lead: every port of 0 is announced in a file that all must see."""
    nodes = [cluster.node(participant.node) for participant in participants]
    one_folder = all(node.connection == "local" and node.workdir == nodes[0].workdir for node in nodes)
    free = [participant.node for participant in participants if participant.port == 0]
    if one_folder or not free or len(participants) == 1:
        return []
    what = f"0 (any free port) on {listed(free)} cannot be found by the others, which elastic asks for"
    return [settings.cluster_from.problem(("port", "default"), what, "write a port, 65432 for one")]


def _check_balance(file: CommonFile, settings: Settings, participants: tuple[Participant, ...]) -> list[Problem]:
    taking = [participant.node for participant in participants]
    return [
        settings.cluster_from.problem(
            ("balance", name),
            f"{name} does not take part",
            did_you_mean(name, taking, f"taking part: {listed(taking)}"),
        )
        for name in (file.balance if isinstance(file.balance, dict) else ())
        if name not in taking
    ]
