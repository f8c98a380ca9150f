"""What training with split layers (mp) takes from its files: who holds which layers, in how many micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.clusterfile import CommonFile, MpFile
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
    if len(participants) > layers and not named:
        taken = participants[:layers]
        found.notes.append(
            f"mp: the model has {layers} layers, so {listed(p.node for p in participants[layers:])} "
            f"{'is' if len(participants) == layers + 1 else 'are'} left out"
        )
        found.participants = taken
    split = trained_stages(file, origin, cluster)
    if split is not None:
        ranges, wrong = ranges_of(split, origin, layers)
        hosts = listed(entry.host for entry in split)
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
        micros = max(1, min(training.batch_size, MICROS_PER_STAGE * len(found.participants)))
        found.training = training.model_copy(update={"grad_accumulation": micros})
    return found


def _names(participants: Sequence[Participant]) -> str:
    return listed(participant.node for participant in participants)
