"""What the plan predicts beside what is measured: three unequal hosts, a slow link, every strategy that is asked for.

    python -m benchmarks.predictions --quick --out predictions.json

Each rank has a share of a core (benchmarks/quota.py), and what it sends is throttled and delayed (comm/faults.py).
Before and after every round all ranks are measured at the same time, as `profile.yml` does it: steps alone while the
links are used, links alone. From that, as profile.json would have it, each strategy is predicted; in between it runs
for some steps, the others standing still. A ratio is predicted over measured tokens/s, the median of the rounds' own.
A round in which a machine's own speed changed does not count.

Serving is three processes of their own (predictions_serving.py), over this machine's loopback. With --full strategies
with a server are compared too (predictions_stars.py).
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import predictions_serving as serving
from benchmarks.contestants import LEARNING_RATE, batch_of, context_of
from benchmarks.predictions_stars import STARS, Star
from benchmarks.quota import Quotas
from benchmarks.ranks import Team
from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.models import build_model, build_stage
from smolcluster.models.partition import cut
from smolcluster.plan.arithmetic import param_count
from smolcluster.plan.forecast import Crew, forecast
from smolcluster.plan.pipeline import machines_of, training_stages
from smolcluster.plan.profile import tokens_per_sample
from smolcluster.plan.shares import Cost, quickest
from smolcluster.plan.stages import Ranges
from smolcluster.runtime.pacenote import RankPace
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import GPTSpec, RunSpec
from smolcluster.strategies.base import Batch, build_strategy
from smolcluster.strategies.diloco.rounds import DiLoCo
from smolcluster.train.measuring import measure

RANKS, SAMPLES, MICROS, EVERY = 3, 8, 4, 6
# Shares of a core: two alike, and one that is a little more than half as fast.
SHARES = (0.3, 0.3, 0.18)
# Each way, of every link; a relay hands on what it has when so much time is over.
MBPS, DELAY_MS = 120.0, 2.0
# A round in which a machine's own speed changes by more is none.
STEADY = 1.2
MODEL = GPTSpec(
    model_dim=128, num_layers=6, num_heads=4, ff_dim=512, dropout=0, max_seq_len=64, tie_embeddings=True,
    vocab_size=512,
)  # fmt: skip
NAMES = ("classicdp", "classicdp, balanced", "fsdp 1", "fsdp 3", "mp", "diloco", "classicdp int8")
ASKED_FOR = ("classicdp", "fsdp 1", "mp", "diloco")
Tasks = dict[str, Callable[[], Any]]


class RandomSamples:
    """smolcluster.data.Samples of which only the sizes matter."""

    counts = "tokens"
    vocab_size = MODEL.vocab_size

    def sample_count(self, _split: str) -> int:
        """Enough."""
        return 4096

    def batch(self, _split: str, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """As many as were asked for."""
        return batch_of(int(np.asarray(indices)[0]), len(indices), MODEL.max_seq_len, MODEL)

    def require(self, _global_batch: int) -> None:
        """There is enough."""


class Rounds:
    """strategies.base.Feed: random samples for ever."""

    def __init__(self, samples: int) -> None:
        self.steps, self.total_steps = 0, 1 << 30
        self._batch = batch_of(0, samples, MODEL.max_seq_len, MODEL)

    def take(self, step: int, number: int) -> tuple[Batch, float]:  # noqa: ARG002
        """See Feed."""
        return [self._batch], LEARNING_RATE

    def computed(self, seconds: float) -> float:  # noqa: ARG002
        """See Feed."""
        return 0.0

    def stop(self) -> bool:
        """See Feed."""
        return False


def stages() -> Ranges:
    """mp's layers by the shares, as a plan would make them by measured speeds."""
    run = run_of("mp")
    names = [f"node{rank}" for rank in range(RANKS)]
    return training_stages(run, machines_of(names, {}, dict(zip(names, SHARES, strict=True))))


def balanced() -> tuple[int, ...]:
    """Shares of the batch by the shares of a core."""
    return quickest(RANKS * SAMPLES, [Cost(1 / share) for share in SHARES])


def run_of(name: str) -> RunSpec:
    """The run of a strategy, as a plan has it."""
    strategy, stage = name.split(",")[0].split(" ")[0], int(name[-1]) if name.startswith("fsdp") else 0
    run = context_of(strategy, stage, 0, RANKS, MODEL, samples=SAMPLES, outer_every=EVERY).run
    return (
        run.model_copy(update={"training": run.training.model_copy(update={"grad_accumulation": MICROS})})
        if strategy == "mp"
        else run
    )


def throttles() -> list[FaultSpec]:
    """What every link has."""
    throttled = [FaultSpec(kind="throttle", rank=rank, step=1, mbps=MBPS) for rank in range(RANKS)]
    return [*throttled, FaultSpec(kind="delay", rank=0, step=1, ms=DELAY_MS)]


def ranks_tasks(rank: int, world_size: int, fabric: Any, split: Ranges, steps: int) -> Tasks:
    """What a rank can be told to do: measure, and some steps of each strategy, of which it gives (samples of all ranks,
    seconds; 0: as long as it took). Strategies are made when first told.
    """
    fabric.begin_step(1)
    made: dict[str, Callable[[], float]] = {}

    def turn(name: str) -> tuple[float, float]:
        if name not in made:
            made[name] = maker(name, rank, world_size, split)
        return sum(made[name]() for _ in range(steps)), 0.0

    def star(name: str) -> tuple[float, float]:
        # Twice as many workers' steps as of the others: its pulls are every few of them.
        return Star(name, MODEL, SAMPLES, rank, world_size, throttles()).train(2 * steps), 1.0

    turns = {name: partial(turn, name) for name in NAMES} | {name: partial(star, name) for name in STARS}
    return {"profile": partial(profile, rank, world_size), **turns}


def profile(rank: int, world_size: int) -> RankPace:
    """This rank's pace.json."""
    import smolcluster.train.measuring as measuring

    measuring.open_samples = lambda _: RandomSamples()  # type: ignore[assignment]
    context = context_of("classicdp", 0, rank, world_size, MODEL, samples=SAMPLES)
    return measure(context, lambda: False)  # type: ignore[arg-type]


def maker(name: str, rank: int, world_size: int, split: Ranges) -> Callable[[], float]:
    """A step of a strategy. It gives the samples that all ranks took in it."""
    if name == "mp":
        strategy: Any = build_strategy(
            context_of("mp", 0, rank, world_size, MODEL, samples=SAMPLES),
            build_stage(MODEL, cut(split, MODEL.num_layers)[rank], None, 0),
        )
        x, y = batch_of(0, SAMPLES, MODEL.max_seq_len, MODEL)
        batch = list(zip(x.tensor_split(MICROS), y.tensor_split(MICROS), strict=True))
        return partial(_step, strategy, batch, SAMPLES)
    shares = balanced() if "balanced" in name else (SAMPLES,) * world_size
    if name == "diloco":
        context = context_of("diloco", 0, rank, world_size, MODEL, samples=SAMPLES, outer_every=EVERY)
        return partial(_round, build_strategy(context, build_model(MODEL, None, seed=0)), Rounds(SAMPLES))
    strategy_name = name.split(",")[0].split(" ")[0]
    stage = int(name[-1]) if name.startswith("fsdp") else 0
    context = context_of(
        strategy_name, stage, rank, world_size, MODEL, "int8" if "int8" in name else "fp32", samples=SAMPLES
    )
    if "balanced" in name:  # everybody's share, for what all have to know of each other
        ranks = tuple(one.model_copy(update={"samples": n}) for one, n in zip(context.plan.ranks, shares, strict=True))
        context = dataclasses.replace(context, plan=context.plan.model_copy(update={"ranks": ranks}), me=ranks[rank])
    strategy = build_strategy(context, build_model(MODEL, None, seed=0))
    return partial(_step, strategy, [batch_of(rank, shares[rank], MODEL.max_seq_len, MODEL)], world_size * SAMPLES)


def _step(strategy: Any, batch: Batch, samples: int) -> float:
    strategy.train_step(batch, LEARNING_RATE)
    return samples


def _round(strategy: DiLoCo, feed: Rounds) -> float:
    before = strategy.samples_done
    if not before:  # the first round is one step, since nobody knows a slot
        feed.steps += strategy.train_round(feed).steps
        before = strategy.samples_done
    feed.steps += strategy.train_round(feed).steps
    return strategy.samples_done - before


# -- predicting -----------------------------------------------------------------------------------------------------


def predicted(name: str, paces: Sequence[RankPace], split: Ranges) -> float:
    """Tokens a second by what the ranks measured of themselves."""
    run = run_of(name)
    micros = MICROS if name == "mp" else 1
    costs = [
        Cost((pace.step_s - pace.update_s - pace.pass_s) / pace.samples, pace.update_s, pace.pass_s, micros)
        for pace in paces
    ]
    into = [(f"node{link.peer}", pace.node, link) for pace in paces for link in pace.links]
    busy_mbps, mbps = ({(a, b): getattr(one, key) for a, b, one in into} for key in ("mbps", "idle_mbps"))
    busy_rtt, rtt = ({(b, a): getattr(one, key) for a, b, one in into} for key in ("rtt_ms", "idle_rtt_ms"))
    samples: tuple[int, ...] = (SAMPLES,) * RANKS
    if name == "mp":
        samples = (SAMPLES, *(0 for _ in range(RANKS - 1)))
    elif name in STARS:
        samples = (0, *(SAMPLES for _ in range(RANKS - 1)))
    elif "balanced" in name:
        samples = balanced()
    crew = Crew(
        nodes=tuple(pace.node for pace in paces),
        costs=tuple(costs),
        samples=samples,
        links=lambda a, b: (mbps[a, b], rtt[a, b]),
        busy=lambda a, b: (busy_mbps[a, b], busy_rtt[a, b]),
        wire="int8" if "int8" in name else "fp32",
        stages=split if name == "mp" else (),
    )
    return forecast(run, crew).rate


@dataclass(frozen=True)
class Row:
    """One strategy: tokens a second, predicted and measured, and the median of the rounds' ratios."""

    predicted: float
    measured: float
    ratio: float


def alike(before: Sequence[RankPace], after: Sequence[RankPace]) -> bool:
    """Whether the machines were as fast after a round as before it: else nothing was measured."""
    changes = [now.step_s / was.step_s for was, now in zip(before, after, strict=True)]
    return all(1 / STEADY <= change <= STEADY for change in changes)


def rounds(
    count: int, steps: int, names: Sequence[str] = NAMES
) -> tuple[dict[str, list[tuple[float, float]]], list[Any]]:
    """By strategy (predicted, measured) of each round; and the profiles."""
    split = stages()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    told: list[Any] = []
    setup = partial(ranks_tasks, split=split, steps=steps)
    with Team(RANKS, "smol", setup, keep_memory=True, faults=throttles()) as team:
        pids = [process.pid for process in team.processes]
        with Quotas({pid: share for pid, share in zip(pids, SHARES, strict=True) if pid is not None}):
            for name in names:
                team.do(name)  # makes the strategies, and room in memory
            after = [done.value for done in team.do("profile")]
            for number in range(count):
                before, rates = after, {}
                for name in names if number % 2 == 0 else names[::-1]:
                    done = team.do(name)
                    samples, seconds = done[0].value
                    rates[name] = samples * tokens_per_sample(MODEL) / (seconds or max(one.wall_s for one in done))
                after = [done.value for done in team.do("profile")]
                told.append([pace.model_dump(mode="json", by_alias=True) for pace in after])
                if not alike(before, after):
                    print(f"round {number + 1} of {count} does not count: the machine was busy", file=sys.stderr)
                    continue
                for name, rate in rates.items():
                    both = statistics.mean(predicted(name, paces, split) for paces in (before, after))
                    found[name].append((both, rate))
                    print(
                        f"round {number + 1} of {count}: {name}: {both:,.0f} predicted, {rate:,.0f} measured",
                        file=sys.stderr,
                    )
    return found, told


def rows(found: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Row]:
    """The medians."""
    return {
        name: Row(
            statistics.median(one for one, _ in pairs),
            statistics.median(one for _, one in pairs),
            statistics.median(said / was for said, was in pairs),
        )
        for name, pairs in found.items()
    }


def judge(table: Mapping[str, Row]) -> list[Target]:
    """Within 30 % for those that are asked for."""
    targets = []
    for name in (*ASKED_FOR, *(each for each in table if each.startswith("serving"))):
        targets.append(Target.at_least(f"{name}, predicted / measured", [table[name].ratio], 0.7))
        targets.append(Target.at_most(f"{name}, predicted / measured", [table[name].ratio], 1.3))
    return targets


def show(console: Console, table: Mapping[str, Row]) -> None:
    """Print the table."""
    title = f"{RANKS} hosts with {', '.join(f'{share:g}' for share in SHARES)} of a core, links of {MBPS:g} Mbit/s"
    shown = Table(title=f"{title}; {param_count(MODEL):,} parameters; tokens/s")
    for column in ("", "predicted", "measured", "ratio"):
        shown.add_column(column, justify="right" if column else "left")
    for name, row in table.items():
        shown.add_row(name, f"{row.predicted:,.1f}", f"{row.measured:,.1f}", f"{row.ratio:.2f}")
    console.print(shown)


def main() -> int:
    options = flags_for("predictions", __doc__, "3 rounds", "9 rounds, and two strategies more").parse_args()
    count, steps = (9, 5) if options.full else (3, 3)
    found, told = rounds(count, steps, (*NAMES, *STARS) if options.full else NAMES)
    if not all(found.values()):
        print("no round counts: this machine has other things to do; try again when it is quiet", file=sys.stderr)
        return 1
    table = rows(found)
    served = serving.measured(9 if options.full else 3)
    table["serving, one stream"], table["serving, 8 streams"] = (Row(*triple) for triple in served)
    targets = judge(table)
    console = Console(width=120)
    show(console, table)
    show_targets(console, targets)
    figures = {
        "torch": torch.__version__,
        "shares": SHARES,
        "mbps": MBPS,
        "delay_ms": DELAY_MS,
        "strategies": {name: dataclasses.asdict(row) for name, row in table.items()},
        "rounds": found,
        "profiles": told,
    }
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
