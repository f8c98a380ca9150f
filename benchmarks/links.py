"""Training over slow links: three ranks on shaped cables, beside the same ranks without communication.

    python -m benchmarks.links --quick --out links.json        # as root: it makes network namespaces of its own

The contestants take turns on the same links; a ratio is the median of the rounds' own ratios. `--quick` trains
gpt_config.yaml's model with a vocabulary of 2,048, `--full` with GPT-2's 50,257; bytes, compute and state grow alike.
Bytes are those the kernel has had acknowledged on a rank's connections, counted alike for gloo and for ours.

Losses are those of a small model on the language reference inside Python, after the same tokens, each at its own best
learning rate of the same few. Below which speed of the links a smaller format pays: benchmarks.formats.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import GPT, LEARNING_RATE, Step, batch_of
from benchmarks.entrants import ALONE, CONTESTANTS, FP32, INT8, TEAMS, entrants_of
from benchmarks.ranks import Done, Place, Team, Transport
from benchmarks.reading import losses
from benchmarks.switch import Switch, why_no_namespaces
from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.spec.run import GPTSpec

RANKS, SAMPLES, WARM_UP = 3, 4, 2
SPEEDS_MBPS = (1000, 100)
SMALL_VOCABULARY = GPT.model_copy(update={"vocab_size": 2048})

Tasks = dict[str, Callable[[], Any]]


def racers(
    rank: int, world_size: int, _: Any, transport: Transport, places: Sequence[Place], names: Sequence[str],
    spec: GPTSpec,
) -> Tasks:  # fmt: skip
    """The turns of a team's contestants, by name; "bytes NAME" makes one too, and gives what the rank sent in it."""
    tasks: Tasks = {}
    for contestant in entrants_of(transport, names):
        _, step = contestant.build(rank, world_size, spec, LEARNING_RATE)
        turn = partial(_turn, step, contestant.turn, *batch_of(rank, SAMPLES, spec=spec))
        tasks[contestant.name] = turn
        tasks[f"bytes {contestant.name}"] = partial(_sent_by, turn, [place.address for place in places])
    return tasks


def _turn(step: Step, times: int, x: torch.Tensor, y: torch.Tensor) -> None:
    for _ in range(times):
        step(x, y)


def _sent_by(work: Callable[[], None], addresses: Sequence[str]) -> int:
    """Bytes this rank's connections have had acknowledged of the work, less what a barrier takes."""
    import torch.distributed as dist

    from smolcluster.comm.stats import tcp_counters

    counts = []
    for each in (lambda: None, lambda: None, work):
        each()
        # Who leaves it has been heard by all: everything before is acknowledged.
        dist.barrier()
        counted = tcp_counters(addresses)
        assert counted is not None
        counts.append(counted[0])
    return (counts[2] - counts[1]) - (counts[1] - counts[0])


class Race:
    """All contestants' ranks on one switch, which take turns."""

    def __init__(self, switch: Switch, names: Sequence[str], spec: GPTSpec) -> None:
        self.switch = switch
        self.names = tuple(names)
        self._teams: dict[Transport, Team] = {}
        for transport in TEAMS:
            if entrants_of(transport, names):
                setup = partial(racers, transport=transport, places=switch.places, names=self.names, spec=spec)
                ours = transport == "smol"
                self._teams[transport] = Team(RANKS, transport, setup, keep_memory=ours, places=switch.places)

    def turn(self, name: str, task: str = "") -> list[Done]:
        """One turn of a contestant; what its ranks answered."""
        return self._teams[CONTESTANTS[name].transport].do(task + name)

    def seconds(self, mbps: float, rounds: int, names: Sequence[str]) -> dict[str, list[float]]:
        """Seconds of a step, the slowest rank's, by contestant and round, on links of that speed."""
        self.switch.speed(mbps)
        for name in names:
            for _ in range(WARM_UP if CONTESTANTS[name].turn == 1 else 1):
                self.turn(name)
        found: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds):
            for name in names if number % 2 == 0 else names[::-1]:
                slowest = max(done.wall_s for done in self.turn(name))
                found[name].append(slowest / CONTESTANTS[name].turn)
            print(f"  {mbps:,.0f} Mbit/s, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        return found

    def sent(self) -> dict[str, float]:
        """Bytes that a rank sends in a step, the one that sends most, by contestant."""
        most = {name: max(done.value for done in self.turn(name, "bytes ")) for name in self.names}
        return {name: count / CONTESTANTS[name].turn for name, count in most.items()}

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *why: Any) -> None:
        for team in self._teams.values():
            team.__exit__(*why)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Tokens/s over those of another: the median of the rounds' own ratios."""
    return statistics.median(other / mine for mine, other in zip(ours, theirs, strict=True))


def judge(
    speeds: Mapping[int, Mapping[str, float]], sent: Mapping[str, float], best: Mapping[str, float]
) -> list[Target]:
    """What is asked for, and whether it was reached. `speeds`: tokens/s over the ranks without communication."""
    targets = []
    for name, contestant in CONTESTANTS.items():
        for mbps, least in contestant.least.items():
            if name in speeds.get(mbps, {}):
                what = f"{name}, {mbps} Mbit/s: tokens/s over the same ranks without communication"
                targets.append(Target.at_least(what, [speeds[mbps][name]], least))
        if contestant.loss_over is not None and name in best:
            what = f"{name}: loss after the same tokens over that of {FP32}"
            targets.append(Target.at_most(what, [best[name] / best[FP32]], 1 + contestant.loss_over))
    if INT8 in sent:
        targets.append(Target.at_most("int8: bytes over those of fp32", [sent[INT8] / sent[FP32]], 0.27))
    return targets


def show(console: Console, spec: GPTSpec, figures: Mapping[str, Any], targets: Sequence[Target]) -> None:
    """Print what was measured."""
    table = Table(title=f"{RANKS} ranks, batch {SAMPLES} each, vocabulary {spec.vocab_size:,}: medians")
    table.add_column("")
    for column in ("ms a step", "of no communication"):
        for mbps in SPEEDS_MBPS:
            table.add_column(f"{column}, {mbps:,} Mbit/s", justify="right")
    table.add_column("a rank sends", justify="right")
    table.add_column("loss", justify="right")
    for name, row in figures.items():
        table.add_row(
            name,
            *(f"{row['step_s'][mbps] * 1e3:,.0f}" for mbps in SPEEDS_MBPS),
            *(f"{row['speed'][mbps]:.2f}x" for mbps in SPEEDS_MBPS),
            f"{row['sent_bytes'] / 1e6:.2f} MB",
            f"{row['loss']:.4f}" if row["loss"] is not None else "",
        )
    console.print(table)
    show_targets(console, targets)


def main() -> int:
    options = flags_for(
        "links", __doc__, "a vocabulary of 2,048, 5 rounds", "a vocabulary of 50,257, 9 rounds"
    ).parse_args()
    if reason := why_no_namespaces():
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    spec, rounds, steps = (GPT, 9, 3200) if options.full else (SMALL_VOCABULARY, 5, 1600)
    names = tuple(CONTESTANTS)
    with Switch(RANKS) as switch, Race(switch, names, spec) as race:
        raced = {mbps: race.seconds(mbps, rounds, names) for mbps in SPEEDS_MBPS}
        sent = race.sent()
    # A loss takes minutes: a quick run learns with those of which one is asked for.
    asked = (FP32, *(name for name, each in CONTESTANTS.items() if each.loss_over is not None))
    told = losses([name for name in names if name != ALONE] if options.full else asked, RANKS, steps)
    best = {name: min(by_rate.values()) for name, by_rate in told.items()}
    speeds = {mbps: {name: ratio(raced[mbps][name], raced[mbps][ALONE]) for name in names} for mbps in SPEEDS_MBPS}
    figures = {
        name: {
            "step_s": {mbps: statistics.median(raced[mbps][name]) for mbps in SPEEDS_MBPS},
            "speed": {mbps: speeds[mbps][name] for mbps in SPEEDS_MBPS},
            "sent_bytes": sent[name],
            "loss": best.get(name),
            "losses": told.get(name),
        }
        for name in names
    }
    targets = judge(speeds, sent, best)
    show(Console(width=140), spec, figures, targets)
    told_all = {"torch": torch.__version__, "vocabulary": spec.vocab_size, "rounds": rounds, "contestants": figures}
    return conclude(options.out, told_all, targets)


if __name__ == "__main__":
    sys.exit(main())
