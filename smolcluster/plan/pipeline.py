"""Which rank of an mp run trains which layers: as `stages:` says, else by memory and speed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.arithmetic import STATE_BYTES, block_params, norm_params, position_params
from smolcluster.plan.grid import Grid
from smolcluster.plan.profile import Profile
from smolcluster.plan.shares import shares
from smolcluster.plan.stages import Machine, ModelWeight, Ranges, fits, split
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.problems import listed
from smolcluster.spec.run import GPTSpec, ModelSpec, NNSpec, RunSpec
from smolcluster.spec.stages import split_layers

_FLOAT = 4
# What autograd keeps of a block for each token, in widths of the model and of its MLP: inputs of both norms and of the
# four products, query, key and value, what attention gave, both sides of the activation; of SwiGLU gate and up, what
# silu made of the gate, and their product.
_KEPT_WIDTHS, _KEPT_FF, _KEPT_SWIGLU = 10, 2, 4
_FIX = "take a smaller model, activation_checkpointing, or more machines"


def training_stages(run: RunSpec, machines: Sequence[Machine]) -> Ranges:
    """Half-open ranges of layers in the order of stages, each on one of the machines; replicas of a stage are as one.

    ConfigError where there are too few layers or too little memory.
    """
    count, layers = len(machines), layers_of(run.model)
    if count > layers:
        what = f"{layers} layers cannot be trained on {count} ranks"
        raise ConfigError([Problem("", 0, "nodes", what, _fewer(machines, layers))])
    if run.stages:
        if len(run.stages) != count:
            what = f"{len(run.stages)} stages are given, and there are {count} ranks"
            raise ConfigError([Problem("", 0, "stages", what, "give every machine one rank (machines.ranks: 1)")])
        return run.stages
    if isinstance(run.model, NNSpec):
        return split_layers(layers, count)
    return split(_weight_of(run, run.model, count), machines, _FIX)


def pipeline_notes(run: RunSpec, names: Sequence[str], stages: Ranges, samples: Sequence[int]) -> list[str]:
    """What a person should know of the split: who has what, and what filling and draining costs.

    `names` are the ranks' machines, `samples` those of each pipeline.
    """
    if len(names) < 2:
        return []
    grid = Grid(len(stages), len(samples))
    micros = micros_of(run, min(samples))
    idle = idle_share(len(stages), micros)
    many = f"{micros} micro-batch{'es' if micros > 1 else ''}"
    advice = "; a larger training.grad_accumulation waits less" if idle > 1 / 3 else ""
    waits = f"with {many} a stage waits {idle * 100:.0f} % of a step{advice}"
    if grid.replicas == 1:
        split_up = listed(f"{name} {start}:{stop}" for name, (start, stop) in zip(names, stages, strict=True))
        return [f"mp: layers {split_up}; {waits}"]
    takes = [
        f"{listed(names[rank] for rank in grid.pipeline(number))} take {count} sample{'s' if count > 1 else ''}"
        for number, count in enumerate(samples)
    ]
    return [f"mp: layers {placed(names, stages)}; {'; '.join(takes)} of a step; {waits}"]


def placed(names: Sequence[str], stages: Ranges) -> str:
    """`0:3 on mini1 and pi5, 3:6 on mini2 and pi4`: the machines of each stage, `names` being those of all ranks."""
    grid = Grid(len(stages), len(names) // len(stages))
    each = [
        f"{start}:{stop} on {' and '.join(names[rank] for rank in grid.stage(number))}"
        for number, (start, stop) in enumerate(stages)
    ]
    return listed(each)


def micros_of(run: RunSpec, samples: int) -> int:
    """How many micro-batches so many samples, a pipeline's share of a step, pass its stages in."""
    return min(run.training.grad_accumulation, samples)


def head_layers(model: ModelSpec) -> float:
    """How many layers' work the projection onto the vocabulary is."""
    return model.vocab_size * model.model_dim / block_params(model) if isinstance(model, GPTSpec) else 0.0


def idle_share(stages: int, micros: int) -> float:
    """The part of a step that an even stage waits for others: the pipeline fills and drains, (S-1) / (S-1+M)."""
    return (stages - 1) / (stages - 1 + micros)


def _fewer(machines: Sequence[Machine], layers: int) -> str:
    """What to do where there are more ranks than layers: the first machines with whose ranks there are not."""
    names = [machine.name for machine in machines]
    ends = [end for end in range(2, layers + 1) if names[end - 1] != names[end]]  # no machine's ranks are parted
    if not ends:
        return f"give {names[0]} fewer ranks (machines.{names[0]}.ranks), or take a model with more layers"
    fewer = dict.fromkeys(names[: ends[-1]])
    return f"name fewer machines: --nodes {','.join(fewer)}"


def fewer_stages(run: RunSpec, sizes: Sequence[int], machines: Sequence[Machine]) -> Ranges:
    """The layers shared out anew among those who are left, in proportion to the `sizes` that they had.

    Where a machine has too little memory for that another split is taken, as near to it as memory lets it be;
    ConfigError where there is none.
    """
    layers = layers_of(run.model)
    ends = list(accumulate(shares(layers, sizes)))
    wanted: Ranges = tuple(zip([0, *ends], ends, strict=False))
    if isinstance(run.model, NNSpec):
        return wanted
    weight = _weight_of(run, run.model, len(machines))
    if fits(weight, machines, wanted):
        return wanted
    weighed = [replace(machine, speed=size) for machine, size in zip(machines, sizes, strict=True)]
    return split(weight, weighed, "start the lost machine again and resume the run, or resume it with more machines")


def machines_of(
    names: Sequence[str], memory_mb: Mapping[str, int | None], speeds: Mapping[str, float]
) -> list[Machine]:
    """One for every rank, by the name of its node; `speeds` are of a rank. Ranks of one node share its memory."""
    return [
        Machine(name, share_of_memory(memory_mb.get(name), names.count(name)), speeds.get(name, 1.0)) for name in names
    ]


def speeds_of(run: RunSpec, names: Sequence[str], profile: Profile | None) -> tuple[Mapping[str, float], list[str]]:
    """How fast a rank on each machine is, by `balance` or else as it was measured, and what a person should know of it.

    Ranks on those machines, in order. A profile without one of them tells nothing: speeds of others are no measure.
    """
    if run.stages and run.replicas > 1 and isinstance(run.balance, dict):
        return run.balance, []  # of the batch, between the pipelines
    if run.stages:
        said = "balance: stages say who has which layers, so this does nothing"
        return {}, [said] if run.balance and len(names) > 1 else []
    if isinstance(run.balance, dict) and run.balance:
        return run.balance, []
    if profile is None or isinstance(run.model, NNSpec) or len(names) < 2:
        return {}, []
    missing = [name for name in dict.fromkeys(names) if name not in profile.speeds]
    if missing:
        return {}, [f"{profile.told} has no speed of {listed(missing)}: layers go by memory and number alone"]
    speeds = {name: profile.speeds[name] for name in names}
    told = ", ".join(f"{name} {speed:,.6g}" for name, speed in speeds.items())
    # What is measured of a machine is all its ranks together.
    return {name: speed / names.count(name) for name, speed in speeds.items()}, [f"mp: by {profile.told}: {told}"]


def share_of_memory(memory_mb: int | None, ranks: int) -> int | None:
    """What each of a machine's ranks may take of its memory."""
    return None if memory_mb is None else memory_mb // ranks


def _weight_of(run: RunSpec, model: GPTSpec, count: int) -> ModelWeight:
    block, table = block_params(model), model.vocab_size * model.model_dim
    share = -(-run.training.batch_size // run.replicas)
    tokens = -(-share // run.training.grad_accumulation) * model.max_seq_len
    kept = model.model_dim if run.training.activation_checkpointing else _kept(model)
    return ModelWeight(
        layers=model.num_layers,
        layer_bytes=STATE_BYTES * block,
        table_bytes=STATE_BYTES * (table + position_params(model)),
        head_bytes=STATE_BYTES * (table + norm_params(model)),
        # As many micro-batches are alive in the first stage as there are stages.
        cache_bytes=_FLOAT * kept * tokens * min(count, run.training.grad_accumulation),
        head_layers=head_layers(model),
    )


def _kept(model: GPTSpec) -> int:
    return _KEPT_WIDTHS * model.model_dim + (_KEPT_FF if model.llama is None else _KEPT_SWIGLU) * model.ff_dim
