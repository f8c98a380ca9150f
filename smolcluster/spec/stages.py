"""Who computes which layers of a served model, as its files say it: which machines, in which order, which layers.

A split is the file's `stages`; else `server` and workers (those of an mp file, or the first `num_workers` capable hosts
in host_ip order), with the layers cut evenly. Rank 0 is the first stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from smolcluster.errors import Problem
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.clusterfile import AUTO, InferenceFile, StageEntry
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.modelfile import ServedModel
from smolcluster.spec.participants import DEFAULT_PORT
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.settings import Settings
from smolcluster.spec.tablets import check_tablets, tablet_port


class ServingStage(Frozen):
    """One rank of a served model: layers `start` to `stop`, half-open. `port` of a tablet: its app's, or its page's."""

    node: str
    start: int
    stop: int
    port: int


@dataclass
class Split:
    """The stages, and what was noted or found wrong on the way. `places`: where each machine was named."""

    stages: list[ServingStage] = field(default_factory=list)
    places: dict[str, KeyPath] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    given: bool = False


def can_serve(node: Node) -> bool:
    """Whether a stage may live on that machine: a tablet's app is dialled, everything else is started."""
    return node.kind == "ipados" or node.connection != "none"


def serves_by_itself(node: Node) -> bool:
    """Whether a machine that nobody names may get a stage: it can be started there."""
    return node.connection != "none"


def split_layers(layers: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of layers, as even as they go, the first ones longer."""
    base, more = divmod(layers, parts)
    return tuple(pairwise(part * base + min(part, more) for part in range(parts + 1)))


def stages_of(settings: Settings, cluster: ClusterSpec, model: ServedModel | None = None) -> Split:
    """The stages of an inference config. Without a model the layer ranges of `stages` are taken as they stand."""
    file, origin = settings.cluster, settings.cluster_from
    assert isinstance(file, InferenceFile)
    split = Split()
    if file.stages is not None and not _replaced(file, settings, split):
        split.given = True
        ranges, wrong = ranges_of(file.stages, origin, model.num_layers if model is not None else None)
        split.problems += wrong
        places: dict[str, KeyPath] = {
            entry.host[0]: ("stages", index, "host") for index, entry in enumerate(file.stages)
        }
        split.notes += [
            origin.note(("stages", index, "host"), listed(entry.host), entry.host[0], "one pipeline serves a model")
            for index, entry in enumerate(file.stages)
            if len(entry.host) > 1
        ]
        if len(places) < len(file.stages):
            split.problems.append(origin.problem(("stages",), "a machine is named twice", "one stage per machine"))
        _note_server(file, settings, next(iter(places)), split)
    else:
        places = _unsplit(file, settings, cluster, model.num_nodes if model else None, split)
        layers = model.num_layers if model is not None else len(places)
        ranges = list(split_layers(layers, len(places))) if places else []
        if model is not None and layers < len(places):
            what = f"{layers} layers cannot be split over {len(places)} machines"
            split.problems.append(origin.problem(("num_workers",), what, "name fewer machines"))
    split.places = places
    _check_machines(places, cluster, settings, split)
    split.problems += check_tablets(places, cluster, file, origin)
    if split.problems:
        return split
    if file.num_workers is not None and file.num_workers != len(places) - 1:
        taken = f"{len(places) - 1} workers after {next(iter(places))}"
        split.notes.append(origin.note(("num_workers",), file.num_workers, taken))
    split.stages = [
        ServingStage(node=name, start=start, stop=stop, port=_port(file.port or {}, cluster.node(name)))
        for name, (start, stop) in zip(places, ranges, strict=True)
    ]
    return split


def ranges_of(
    entries: list[StageEntry], origin: Merged, layers: int | None
) -> tuple[list[tuple[int, int]], list[Problem]]:
    """The ranges of `stages`: each starts where the one before ends, from layer 0 to the model's last (None: any)."""
    ranges: list[tuple[int, int]] = []
    problems: list[Problem] = []
    names = dict.fromkeys(host for entry in entries for host in entry.host)
    expected = 0
    for index, entry in enumerate(entries):
        start, stop = (int(part) for part in entry.layers.split(":"))
        here: KeyPath = ("stages", index, "layers")
        if start != expected or stop <= start:
            what = f"{entry.layers} does not go on at layer {expected} (ranges are half-open)"
            problems.append(origin.problem(here, what, f'write "{expected}:{max(stop, expected + 1)}"'))
        ranges.append((start, stop))
        expected = stop
    if layers is not None and expected != layers:
        what = f"the stages end at layer {expected}, the model has {layers}"
        fix = f"let them cover 0:{layers}, or name the machines alone: --nodes {','.join(names)}"
        problems.append(origin.problem(("stages",), what, fix))
    return ranges, problems


def _port(ports: Mapping[str, int], node: Node) -> int:
    if node.app is not None:
        return tablet_port(ports, node)
    return ports.get(node.name, ports.get("default", DEFAULT_PORT))


def _unsplit(
    file: InferenceFile, settings: Settings, cluster: ClusterSpec, wanted: int | None, split: Split
) -> dict[str, KeyPath]:
    """Server and workers where no stages are given, each with its place in the file."""
    capable = {node.name for node in cluster.nodes if serves_by_itself(node)}
    if file.nodes is not None:
        return {name: ("nodes", index) for index, name in enumerate(file.nodes)}
    if file.workers is not None:
        head: dict[str, KeyPath] = {file.server: ("server",)} if file.server is not None else {}
        return head | {worker: ("workers", index) for index, worker in enumerate(file.workers)}
    known: dict[str, KeyPath] = {name: ("host_ip", name) for name in file.host_ip if name in capable}
    if not known:
        known = {node.name: () for node in cluster.nodes if node.name in capable}
    if not known:
        fix = "add a machine that runs macOS or Linux"
        split.problems.append(Problem(f"inventory {cluster.name}", 0, "machines", "no machine can serve", fix))
        return {}
    server = file.server if file.server is not None else next(iter(known))
    workers = [name for name in known if name != server]
    count = file.num_workers if file.num_workers is not None else (wanted or len(known)) - 1
    if file.num_workers is not None and count > len(workers):
        what = f"says {count}, but there are {len(workers)} machines besides {server}: {listed(workers)}"
        split.problems.append(settings.cluster_from.problem(("num_workers",), what, f"write at most {len(workers)}"))
    return {server: ("server",)} | {name: known[name] for name in workers[:count]}


def _replaced(file: InferenceFile, settings: Settings, split: Split) -> bool:
    """Whether a higher layer than the one with `stages` names the machines: an mp file, --nodes."""
    origin = settings.cluster_from
    for key, named in (("nodes", file.nodes), ("workers", file.workers)):
        if named is not None and origin.height((key,)) > origin.height(("stages",)):
            why = "the later layer wins"
            said = listed(host for entry in file.stages or () for host in entry.host)
            split.notes.append(origin.note(("stages",), said, f"{key}: {listed(named)}", why))
            return True
    return False


def _note_server(file: InferenceFile, settings: Settings, first: str, split: Split) -> None:
    if file.server is not None and file.server != first:
        why = "rank 0 is the first of the stages"
        split.notes.append(settings.cluster_from.note(("server",), file.server, first, why))


def _check_machines(places: dict[str, KeyPath], cluster: ClusterSpec, settings: Settings, split: Split) -> None:
    names = tuple(node.name for node in cluster.nodes)
    for name, place in places.items():
        if name == AUTO and name not in names:
            what = "auto chooses the machines of a training, by predicted times of a step"
            split.problems.append(settings.cluster_from.problem(place, what, "name the machines, or leave nodes out"))
        elif name not in names:
            fix = did_you_mean(name, names, f"machines of {cluster.name}: {listed(names)}")
            what = f'there is no machine "{name}" in the inventory'
            split.problems.append(settings.cluster_from.problem(place, what, fix))
        elif not can_serve(cluster.node(name)):
            what = f"{name} cannot serve: connection none"
            split.problems.append(settings.cluster_from.problem(place, what, "leave it out"))
