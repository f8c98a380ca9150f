"""What training with split layers (mp) takes from its files: who holds which layers, in how many micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.clusterfile import CommonFile, MpFile, StageEntry
from smolcluster.spec.layers import Merged
from smolcluster.spec.participants import hosts_of, of_the_inventory, trained_stages
from smolcluster.spec.problems import listed
from smolcluster.spec.replicas import batch_problems, given_pipelines, wanted_pipelines
from smolcluster.spec.resumed import Earlier
from smolcluster.spec.run import ModelSpec, NNSpec, Participant, TrainingSpec
from smolcluster.spec.stages import ranges_of
from smolcluster.spec.training import Trained

# SimpleNN's fc1 and fc2.
_NN_LAYERS = 2
# With so many micro-batches for every stage a fifth of a step is filling and draining; more of them are thinner.
MICROS_PER_STAGE = 4


@dataclass
class Pipeline:
    """`stages`: the ranges of layers the file gives, in their order; none: they are the plan's to choose. `replicas`:
    how many pipelines of them there are.
    """

    participants: tuple[Participant, ...]
    training: TrainingSpec
    stages: tuple[tuple[int, int], ...] = ()
    replicas: int = 1
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def layers_of(model: ModelSpec) -> int:
    """How many layers a model has that can lie on different machines."""
    return _NN_LAYERS if isinstance(model, NNSpec) else model.num_layers


def pipeline_of(
    file: CommonFile,
    origin: Merged,
    cluster: ClusterSpec,
    participants: tuple[Participant, ...],
    named: bool,
    trained: Trained,
    given_micros: bool,
    earlier: Earlier | None = None,
) -> Pipeline:
    """`named`: somebody chose the machines; else those beyond the model's layers are left out. `given_micros`: somebody
    chose training.grad_accumulation; else the batch is cut into as many micro-batches as keep the stages busy.
    """
    training, layers = trained.training, layers_of(trained.model)
    found = Pipeline(participants, training)
    if not isinstance(file, MpFile):
        return found
    split = trained_stages(file, origin, cluster)
    if split is None or list(dict.fromkeys(hosts_of(split))) != [each.node for each in participants]:
        _take_machines(found, file, origin, cluster, named, layers, earlier)
    if split is None and file.stages is not None and not of_the_inventory(origin):
        hosts = listed(host for entry in file.stages for host in entry.host)
        found.notes.append(origin.note(("stages",), hosts, _names(found.participants), "the later layer wins"))
    if split is not None:
        ranges, wrong = ranges_of(split, origin, layers)
        replicas, odd = given_pipelines(file, origin, split)
        wrong += odd + _twice(split, origin)
        hosts = listed(dict.fromkeys(hosts_of(split)))
        if hosts != _names(participants):
            why = "other machines take part, so the layers are shared out anew"
            found.notes.append(origin.note(("stages",), hosts, _names(participants), why))
        elif wrong and of_the_inventory(origin):
            why = f"they are not those of this model, which has {layers} layers"
            if odd:
                why = "they do not name as many machines for all layers as there are pipelines"
            found.notes.append(origin.note(("stages",), listed(e.layers for e in split), "layers shared out anew", why))
            _take_machines(found, file, origin, cluster, named, layers, earlier)
        else:
            found.problems += wrong
            found.stages, found.replicas = tuple(ranges), replicas
    found.problems += batch_problems(origin, found.replicas, training.batch_size)
    if not given_micros:
        count = sum(cluster.node(participant.node).ranks for participant in found.participants)
        most = training.batch_size // found.replicas
        micros = max(1, min(most, MICROS_PER_STAGE * count // found.replicas))
        found.training = training.model_copy(update={"grad_accumulation": micros})
    return found


def _take_machines(
    found: Pipeline,
    file: MpFile,
    origin: Merged,
    cluster: ClusterSpec,
    named: bool,
    layers: int,
    earlier: Earlier | None,
) -> None:
    """Of the machines those that there are layers for, and that form whole pipelines; the others are left out."""
    participants = found.participants
    most = layers * (file.replicas or 1)
    # Each rank takes a layer at least: the first machines, as far as all their ranks have one.
    ends = list(accumulate(cluster.node(participant.node).ranks for participant in participants))
    taken = sum(end <= most for end in ends)
    if taken < len(participants) and not named and taken and ends[taken - 1] > 1:
        left = participants[taken:]
        found.notes.append(
            f"mp: the model has {layers} layers, so {_names(left)} {'is' if len(left) == 1 else 'are'} left out"
        )
        participants = participants[:taken]
    ranks = [cluster.node(participant.node).ranks for participant in participants]
    names = [participant.node for participant in participants]
    pipelines = wanted_pipelines(file, origin, ranks, names, named, earlier)
    found.participants, found.replicas = participants[: pipelines.machines], pipelines.replicas
    found.notes += pipelines.notes
    found.problems += pipelines.problems


def stage_problems(file: CommonFile, origin: Merged, cluster: ClusterSpec, model: ModelSpec) -> list[Problem]:
    """What is wrong with the ranges of a file's `stages`, whoever its machines are."""
    split = trained_stages(file, origin, cluster)
    if split is None or of_the_inventory(origin):
        return []
    return ranges_of(split, origin, layers_of(model))[1] + _twice(split, origin)


def _twice(split: Sequence[StageEntry], origin: Merged) -> list[Problem]:
    named = [(index, host) for index, entry in enumerate(split) for host in entry.host]
    hosts = [host for _, host in named]
    return [
        origin.problem(("stages", index, "host"), f"{host} is named twice", "give every machine one range of layers")
        for place, (index, host) in enumerate(named)
        if host in hosts[:place]
    ]


def _names(participants: Sequence[Participant]) -> str:
    return listed(participant.node for participant in participants)
