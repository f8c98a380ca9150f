"""What training with split layers (mp) takes from its files: who holds which layers, in how many micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.clusterfile import CommonFile, MpFile, StageEntry
from smolcluster.spec.layers import Merged
from smolcluster.spec.participants import of_the_inventory, trained_stages
from smolcluster.spec.problems import listed
from smolcluster.spec.run import ModelSpec, NNSpec, Participant, TrainingSpec
from smolcluster.spec.stages import ranges_of

# SimpleNN's fc1 and fc2.
_NN_LAYERS = 2
# With so many micro-batches for every stage a fifth of a step is filling and draining; more of them are thinner.
MICROS_PER_STAGE = 4


@dataclass
class Pipeline:
    """`stages`: the ranges of layers the file gives, in rank order; none: they are the plan's to choose."""

    participants: tuple[Participant, ...]
    training: TrainingSpec
    stages: tuple[tuple[int, int], ...] = ()
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
    model: ModelSpec,
    training: TrainingSpec,
    given_micros: bool,
) -> Pipeline:
    """`named`: somebody chose the machines; else those beyond the model's layers are left out. `given_micros`: somebody
    chose training.grad_accumulation; else the batch is cut into as many micro-batches as keep the stages busy.
    """
    layers = layers_of(model)
    found = Pipeline(participants, training)
    if not isinstance(file, MpFile):
        return found
    # Each rank takes a layer at least: the first machines, as far as all their ranks have one.
    ends = list(accumulate(cluster.node(participant.node).ranks for participant in participants))
    taken = sum(end <= layers for end in ends)
    if taken < len(participants) and not named and taken and ends[taken - 1] > 1:
        left = participants[taken:]
        found.notes.append(
            f"mp: the model has {layers} layers, so {_names(left)} {'is' if len(left) == 1 else 'are'} left out"
        )
        found.participants = participants[:taken]
    split = trained_stages(file, origin, cluster)
    if split is None and file.stages is not None and not of_the_inventory(origin):
        hosts = listed(entry.host for entry in file.stages)
        found.notes.append(origin.note(("stages",), hosts, _names(found.participants), "the later layer wins"))
    if split is not None:
        ranges, wrong = ranges_of(split, origin, layers)
        wrong += _twice(split, origin)
        hosts = listed(dict.fromkeys(entry.host for entry in split))
        if hosts != _names(participants):
            why = "other machines take part, so the layers are shared out anew"
            found.notes.append(origin.note(("stages",), hosts, _names(participants), why))
        elif wrong and of_the_inventory(origin):
            why = f"they are not those of this model, which has {layers} layers"
            found.notes.append(origin.note(("stages",), listed(e.layers for e in split), "layers shared out anew", why))
        else:
            found.problems += wrong
            found.stages = tuple(ranges)
    if not given_micros:
        count = sum(cluster.node(participant.node).ranks for participant in found.participants)
        micros = max(1, min(training.batch_size, MICROS_PER_STAGE * count))
        found.training = training.model_copy(update={"grad_accumulation": micros})
    return found


def stage_problems(file: CommonFile, origin: Merged, cluster: ClusterSpec, model: ModelSpec) -> list[Problem]:
    """What is wrong with the ranges of a file's `stages`, whoever its machines are."""
    split = trained_stages(file, origin, cluster)
    if split is None or of_the_inventory(origin):
        return []
    return ranges_of(split, origin, layers_of(model))[1] + _twice(split, origin)


def _twice(split: Sequence[StageEntry], origin: Merged) -> list[Problem]:
    hosts = [entry.host for entry in split]
    return [
        origin.problem(("stages", index, "host"), f"{host} is named twice", "give every machine one range of layers")
        for index, host in enumerate(hosts)
        if host in hosts[:index]
    ]


def _names(participants: Sequence[Participant]) -> str:
    return listed(participant.node for participant in participants)
