"""Who takes part with how many samples, and what a person should know of it before it starts. Pure.

    balance: {mini1: 2}   shares by given weights
    balance: auto         shares by measured speeds: those with which the slowest rank is as quick as it can be
    nodes: auto           those machines with whom the same step is predicted to be quickest

The global batch is the sum over all ranks that might take part, whoever then does: so it is the same training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations

from smolcluster.plan.arithmetic import memory_of, param_count
from smolcluster.plan.predict import Prediction, predict
from smolcluster.plan.profile import Profile, asks_for_speeds, differences, tokens_per_sample, unmeasured
from smolcluster.plan.room import too_big
from smolcluster.plan.seats import Seat, seats_of
from smolcluster.plan.shares import quickest, shares
from smolcluster.plan.speeds import Speeds, costs_of
from smolcluster.plan.types import PredictedStep
from smolcluster.plan.wires import Complaint, format_for
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.problems import listed
from smolcluster.spec.run import PREDICTED, Participant, RunSpec
from smolcluster.topology import NoRouteError

MEASURE = "measure: python -m smolcluster profile, or ansible-playbook train.yml -e profile=true"
# What is predicted to take at most so much of the time is worth a word: measurements differ by a few percent.
WORTH = 0.95
# Of so many machines all subsets are looked at; of more, one after the other is left out while that helps.
_ALL_SUBSETS = 10


def speed_problems(cluster: ClusterSpec, run: RunSpec, profile: Profile | None) -> list[Complaint]:
    """What is left to speeds that nobody measured."""
    keys = [key for key in asks_for_speeds(run) if key != "wire"]
    found: list[Complaint] = []
    for key in keys:
        fix = f"{MEASURE}; or {'name the machines' if key == 'nodes' else 'write even, or {mini1: 2, pi5: 1}'}"
        if profile is None:
            found.append((key, "auto needs measured speeds, and there is no profile.json beside the inventory", fix))
        elif missing := unmeasured(profile, run):
            found.append((key, f"auto needs the speed of {listed(missing)}, which {profile.told} has not", fix))
        elif key == "nodes" and (other := differences(profile, cluster, run)):
            what = f"auto needs times of this run, and {profile.told} has others ({'; '.join(other)})"
            found.append((key, what, fix))
    return found


def samples_of(
    run: RunSpec, seats: Sequence[Seat], profile: Profile | None, total: int | None = None
) -> tuple[int, ...]:
    """Samples of one step, by rank. A star's server computes no gradients unless it is asked to.

    `total`: the global batch, where it is not that of these ranks. A profile must have all speeds.
    """
    per_rank = run.training.batch_size
    fixed = {s.rank: s.participant.batch_size for s in seats if s.participant.batch_size is not None}
    idle = "server" if not run.server_trains else None
    free = [s for s in seats if s.rank not in fixed and s.participant.role != idle]
    left = per_rank * len(free) if total is None else total - sum(fixed.values())
    taken = dict(zip((s.rank for s in free), _parts(run, free, profile, left), strict=True))
    return tuple(taken.get(s.rank, 0) + fixed.get(s.rank, 0) for s in seats)


def _parts(run: RunSpec, free: Sequence[Seat], profile: Profile | None, total: int) -> tuple[int, ...]:
    if not free:
        return ()
    if run.balance == "auto" and len(free) > 1:
        assert profile is not None, "speed_problems was asked first"
        return quickest(total, costs_of(run, profile, free))
    given = run.balance if isinstance(run.balance, dict) else {}
    return shares(total, [given.get(s.node.name, 1.0) for s in free])


@dataclass(frozen=True)
class Option:
    """Some of the machines, in rank order: their samples, and how long a step would take."""

    participants: tuple[Participant, ...]
    samples: tuple[int, ...]
    prediction: Prediction

    @property
    def names(self) -> tuple[str, ...]:
        """The machines."""
        return tuple(participant.node for participant in self.participants)


class Options:
    """The ways to make this run's step, each with its prediction. The profile has to be of this run."""

    def __init__(self, cluster: ClusterSpec, run: RunSpec, speeds: Speeds, profile: Profile) -> None:
        self._cluster = cluster
        self._run = run
        self._speeds = speeds
        self._profile = profile
        self._params = param_count(run.model)
        # Subsets of ten machines are a thousand, and have the same ways.
        self._claimed = cache(self._claimed_mbps)
        self.total = sum(samples_of(run.model_copy(update={"balance": {}}), seats_of(cluster, run), profile))

    def of(self, participants: Sequence[Participant], balanced: bool | None = None) -> Option | None:
        """The step with these; None where one has too little memory, or no way to another. `balanced` overrides how
        samples are shared out.
        """
        run = self._run.model_copy(update={"participants": tuple(participants)})
        if len(participants) == 1:  # alone it needs no second rank
            run = run.model_copy(update={"strategy": "single"})
        if balanced is not None:
            run = run.model_copy(update={"balance": "auto" if balanced else {}})
        seats = seats_of(self._cluster, run)
        nodes = [seat.node.name for seat in seats]
        mbps = [self._claimed(a, b) for a in nodes for b in nodes if a != b]
        if 0.0 in mbps:
            return None
        wire = format_for(run, min(mbps, default=None))
        memory = [memory_of(run, seat.rank, len(seats), seat.participant.role, wire) for seat in seats]
        if too_big(self._cluster, run, seats, memory):
            return None
        samples = samples_of(run, seats, self._profile, self.total)
        costs = costs_of(run, self._profile, seats)
        speeds = self._speeds
        prediction = predict(run, self._params, wire, nodes, costs, samples, speeds.link, speeds.busy)
        return Option(tuple(participants), samples, prediction)

    def _claimed_mbps(self, src: str, dst: str) -> float:
        """How fast the way between two machines is; 0 where there is none."""
        try:
            return self._speeds.claimed(self._speeds.topology.route(src, dst))[0]
        except NoRouteError:
            return 0.0

    @cached_property
    def best(self) -> Option | None:
        """The quickest of all; of equally quick ones that with the fewest machines. None: the model fits nowhere."""
        everybody = self._run.participants
        alone = self._run.strategy == "single"
        if alone or len(everybody) <= _ALL_SUBSETS:
            sizes = (1,) if alone else range(1, len(everybody) + 1)
            return _quicker(self.of(chosen) for size in sizes for chosen in combinations(everybody, size))
        best = self.of(everybody)
        while best is None or len(best.participants) > 1:
            left = everybody if best is None else best.participants
            fewer = _quicker(self.of([other for other in left if other != one]) for one in left)
            if fewer is None or (best is not None and fewer.prediction.step_s >= best.prediction.step_s):
                break
            best = fewer
        return best


def _quicker(options: Iterator[Option | None]) -> Option | None:
    found = [option for option in options if option is not None]
    return min(found, key=lambda o: (o.prediction.step_s, len(o.participants)), default=None)


def choose_nodes(options: Options, run: RunSpec) -> tuple[RunSpec, list[str]]:
    """The run with those machines that are best for it, and why. Without one where the model fits: as it was."""
    best = options.best
    if best is None:
        return run, []
    left = [each.node for each in run.participants if each.node not in best.names]
    everybody = options.of(run.participants) if run.strategy != "single" else None
    note = f"nodes auto: {listed(best.names)}"
    if left:
        note += f" without {listed(left)}"
    note += f", a step is predicted to take {_told(best.prediction.step_s)} s"
    if left and everybody is not None:
        note += f" instead of {_told(everybody.prediction.step_s)}"
    return run.model_copy(update={"participants": best.participants}), [note]


def balance_notes(
    cluster: ClusterSpec, run: RunSpec, seats: Sequence[Seat], samples: Sequence[int], profile: Profile | None
) -> list[str]:
    """What was chosen by speeds and why; that the speeds are of another run."""
    if profile is None or not asks_for_speeds(run):
        return []
    other = differences(profile, cluster, run)
    said = [f"{profile.told} was measured with {'; '.join(other)}: {MEASURE}"] if other and profile.measured else []
    taking = [(seat.node.name, mine) for seat, mine in zip(seats, samples, strict=True) if mine]
    # Of layers and the shares of pipelines plan/pipeline.py tells.
    if "balance" in asks_for_speeds(run) and len(taking) > 1 and run.strategy != "mp":
        each = ", ".join(f"{name} {mine}" for name, mine in taking)
        unit = ("tokens/s" if tokens_per_sample(run.model) > 1 else "samples/s") if profile.measured else "speeds"
        speeds = ", ".join(f"{name} {profile.speeds[name]:,.6g}" for name in dict(taking))
        said.insert(0, f"balance auto: {each} of {sum(samples)} samples, by the {unit} in {profile.told}: {speeds}")
    return said


def predicted_step(options: Options, run: RunSpec) -> PredictedStep | None:
    """How long a step of the run as it is planned should take; None of one rank, and where the model fits nowhere."""
    if run.strategy not in PREDICTED or run.strategy == "single" or len(run.participants) < 2:
        return None
    planned = options.of(run.participants)
    if planned is None:
        return None
    return PredictedStep(compute_s=planned.prediction.compute_s, wire_s=planned.prediction.wire_s)


def advice(options: Options, run: RunSpec, now: PredictedStep) -> list[str]:
    """How long a step should take (`now`), and what would be quicker: other shares, fewer machines, the fastest one
    alone.
    """
    rate = options.total * tokens_per_sample(run.model) / now.step_s
    unit = "tokens/s" if tokens_per_sample(run.model) > 1 else "samples/s"
    said = [
        f"predicted: {_told(now.step_s)} s a step, {_told(now.compute_s)} computing and {_told(now.wire_s)} waiting for"
        f" the wire{_beside(run.staleness_bound)}; {rate:,.0f} {unit}"
    ]

    def worth(option: Option | None) -> bool:
        return option is not None and option.prediction.step_s <= now.step_s * WORTH

    balanced = options.of(run.participants, balanced=True)
    if balanced is not None and run.balance != "auto" and worth(balanced):
        said.append(
            f"balance: auto is predicted to be quicker: {_seconds(balanced)} a step instead of {_told(now.step_s)}"
        )
    alone = _quicker(options.of([one]) for one in run.participants)
    if alone is not None and worth(alone):
        [name] = alone.names
        said.append(
            f"{name} alone is predicted to be quicker: {_seconds(alone)} for the same {options.total} samples instead"
            f" of {_told(now.step_s)} (--strategy single --nodes {name} --override training.batch_size={options.total})"
        )
    fewer = options.best
    if fewer is not None and 1 < len(fewer.names) < len(run.participants) and worth(fewer):
        left = [each.node for each in run.participants if each.node not in fewer.names]
        said.append(
            f"without {listed(left)} a step is predicted to take {_seconds(fewer)} instead of {_told(now.step_s)}"
            " (--nodes auto leaves out what does not pay)"
        )
    return said


def _beside(bound: int) -> str:
    """Under a staleness bound: why computing and sending are not added up."""
    return f", which has the time of {bound} more step{'s' if bound > 1 else ''} (staleness_bound)" if bound else ""


def _seconds(option: Option) -> str:
    return f"{_told(option.prediction.step_s)} s"


def _told(seconds: float) -> str:
    """Three digits; what is under a millisecond is nothing."""
    return f"{seconds:.3g}" if seconds >= 0.001 else "0"
