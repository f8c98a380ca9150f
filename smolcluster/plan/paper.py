"""A cluster that is only on paper: what its machines cost a step, and what they would make of a run together. Pure.

Of a machine of the table the time of a step is its operations over those a second that it is taken to reach, of the
optimizer and of a token its bytes over those of the memory. Nobody measured that: it is an estimate, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from smolcluster.errors import ConfigError
from smolcluster.plan.arithmetic import FLOAT32_BYTES, block_params, param_count
from smolcluster.plan.decoding import DecodePace
from smolcluster.plan.forecast import Crew, Forecast, forecast
from smolcluster.plan.pipeline import machines_of, training_stages
from smolcluster.plan.predict import Link, Links
from smolcluster.plan.profile import Profile, tokens_per_sample
from smolcluster.plan.shares import EVERYBODY_WAITS, Cost, quickest
from smolcluster.plan.speeds import cost_of
from smolcluster.plan.stages import Ranges
from smolcluster.plan.wires import format_for
from smolcluster.spec.paper import Assumed, PaperMachine, PaperWire
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.run import STARS, ModelSpec, NNSpec, RunSpec, WireFormat

# Forward is two operations for every parameter that multiplies; backward twice that.
_TRAINED = 3 * 2
# AdamW reads parameters, gradients and both moments, and writes all but the gradients.
_UPDATE_VALUES = 7
_PIECE = 128


@dataclass(frozen=True)
class Owned:
    """Some machines alike. `pace`: how fast they serve layers, None where nobody knows; `estimated`: from the table."""

    name: str
    count: int
    cost: Cost
    memory_mb: int | None
    wire: PaperWire
    pace: DecodePace | None
    estimated: bool


@dataclass(frozen=True)
class Scaled:
    """So many machines with one strategy. `forecast` None: why it cannot be, in `why`."""

    machines: int
    forecast: Forecast | None
    why: str = ""


def operations_per_sample(model: ModelSpec) -> float:
    """Of forward and backward."""
    if isinstance(model, NNSpec):
        return float(_TRAINED * param_count(model))
    products = model.num_layers * block_params(model) + model.vocab_size * model.model_dim
    # Scores and sums of values: each token looks at half of the others.
    attention = model.num_layers * model.max_seq_len * model.model_dim
    return float(_TRAINED * (products + attention) * model.max_seq_len)


def cost_on(machine: PaperMachine, assumed: Assumed, model: ModelSpec) -> Cost:
    """What a step is estimated to cost a machine of the table."""
    sample_s = operations_per_sample(model) / (machine.flops * assumed.flops_share)
    update_bytes = _UPDATE_VALUES * FLOAT32_BYTES * param_count(model)
    return Cost(sample_s, update_bytes / (machine.bandwidth_gb_s * 1e9 * assumed.bandwidth_share))


def cost_from(model: ModelSpec, tokens_per_s: float) -> Cost:
    """The same of a machine whose speed somebody told."""
    return Cost(tokens_per_sample(model) / tokens_per_s)


def pace_on(machine: PaperMachine, assumed: Assumed, layer_params: int, table_params: int) -> DecodePace:
    """What the layers of a served model are estimated to cost it: one row reads the weights, many compute."""

    def took_s(params: int, rows: int) -> float:
        reads_s = params * FLOAT32_BYTES / (machine.bandwidth_gb_s * 1e9 * assumed.bandwidth_share)
        return max(reads_s, 2 * params * rows / (machine.flops * assumed.flops_share))

    rows = (1, 8, _PIECE)
    return DecodePace(
        rows=rows,
        layer_s=tuple(took_s(layer_params, count) for count in rows),
        head_s=tuple(took_s(table_params, count) for count in rows),
        layer_params=layer_params,
        table_params=table_params,
    )


def links_of(owned: Sequence[Owned], ranks: int) -> Links:
    """Between two machines their slower wire; of a shared one each of the ranks that send at once has its part."""
    wires = {one.name: one.wire for one in owned}

    def link(a: str, b: str) -> Link:
        ends = (wires[a], wires[b])
        mbps = min(wire.mbps / (ranks if wire.shared else 1) for wire in ends)
        return mbps, max(wire.rtt_ms for wire in ends)

    return link


def shared_by_speed(run: RunSpec) -> bool:
    """Whether machines of several speeds have shares of the batch by them: balance auto, `simulate`'s own."""
    return run.balance == "auto" and run.strategy in EVERYBODY_WAITS


def speeds_differ(owned: Sequence[Owned]) -> bool:
    """Whether they are of more than one speed."""
    return len({one.cost for one in owned}) > 1


def with_machines(run: RunSpec, owned: Sequence[Owned], count: int, wire: WireFormat | None = None) -> Scaled:
    """A run on the first so many of these machines, fastest kinds first; each brings the batch of a worker."""
    ordered = sorted(owned, key=lambda one: one.cost.sample_s)
    names = [one.name for one in ordered for _ in range(one.count)][:count]
    if run.strategy == "mp":
        names = names[: layers_of(run.model)]
    if run.strategy in STARS and count < 2:
        return Scaled(count, None, "needs a server and a worker")
    shared = shared_by_speed(run)
    if count == 1:
        run = run.model_copy(update={"strategy": "single", "staleness_bound": 0})
    by_name = {one.name: one for one in ordered}
    mine = run.training.batch_size
    costs = [by_name[name].cost for name in names]
    samples = list(quickest(mine * len(names), costs)) if shared else [mine] * len(names)
    if run.strategy in STARS:
        # The one that computes slowest is the server, which computes no gradients.
        names.insert(0, names.pop())
        costs.insert(0, costs.pop())
        samples[0] = 0
    elif run.strategy == "mp":  # the first feeds all
        samples = [mine, *(0 for _ in names[1:])]
    links = links_of(owned, len(names))
    stages: Ranges = ()
    if run.strategy == "mp":
        memory = {one.name: one.memory_mb for one in owned}
        machines = [
            machine
            for name in names
            for machine in machines_of([name], memory, {name: 1 / by_name[name].cost.sample_s})
        ]
        try:
            stages = training_stages(run, machines)
        except ConfigError as error:
            return Scaled(count, None, error.problems[0].what)
    slowest = min((links(a, b)[0] for a in set(names) for b in set(names)), default=None)
    crew = Crew(
        nodes=tuple(names),
        costs=tuple(costs),
        samples=tuple(samples),
        links=links,
        wire=wire or format_for(run, slowest if len(names) > 1 else None),
        stages=stages,
    )
    told = forecast(run, crew)
    for name, need in zip(names, told.rank_mb, strict=True):
        room = by_name[name].memory_mb
        if room is not None and need > room:
            return Scaled(count, None, f"{name} needs {need:,} MB and has {room:,}")
    return Scaled(count, told)


def scale(run: RunSpec, owned: Sequence[Owned], counts: Sequence[int], wire: WireFormat | None = None) -> list[Scaled]:
    """The same for several numbers of machines."""
    return [with_machines(run, owned, count, wire) for count in counts]


def counts_up_to(total: int) -> list[int]:
    """1, 2, 4 ... and all."""
    powers = [1 << bit for bit in range(total.bit_length()) if 1 << bit < total]
    return [*powers, total]


def stops_paying(line: Sequence[Scaled]) -> tuple[int, str] | None:
    """From how many machines on more of them bring less than a tenth of their number, and why; None: they all pay."""
    there = [one for one in line if one.forecast is not None]
    for fewer, more in pairwise(there):
        assert fewer.forecast is not None
        assert more.forecast is not None
        gained = more.forecast.rate / fewer.forecast.rate - 1
        if gained < 0.1 * (more.machines / fewer.machines - 1):
            return fewer.machines, _why(fewer.forecast, more.forecast)
    return None


def _why(fewer: Forecast, more: Forecast) -> str:
    """Which part of a step grew."""
    computing = more.prediction.compute_s - fewer.prediction.compute_s
    waiting = more.prediction.wire_s - fewer.prediction.wire_s
    if waiting >= computing:
        return f"waiting for the wire grows to {more.prediction.wire_s:.3g} s of a step of {more.step_s:.3g}"
    return f"the slowest machine's computing grows to {more.prediction.compute_s:.3g} s of a step of {more.step_s:.3g}"


def from_profile(profile: Profile, name: str, count: int, wire: PaperWire, model: ModelSpec) -> Owned:
    """Machines like one that was measured."""
    node = profile.measured.nodes.get(name) if profile.measured is not None else None
    pace = node.decode if node is not None else None
    return Owned(name, count, cost_of(model, profile, name), None, wire, pace, estimated=False)
