"""Three machines, one of them always half as fast: who makes the best of them. torch DDP beside what we have.

    python -m benchmarks.unequal --quick --out unequal.json

Computing is emulated (benchmarks/emulated.py): a fixed time per sample, twice as long on the last rank, so that ranks
do not share cores; gradients, optimizers and messages are real. Each contestant trains at every learning rate of the
same small search, in turn, the others standing still. Tokens a second are the median step's, over all of its
trainings; the time to the same loss is each one's at its own best rate, to the loss that DDP ends with at its best.

The ceiling is 5/3: DDP gives everybody the same share, and waits for the slow one.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contestants import CLIP_NORM, WEIGHT_DECAY, context_of
from benchmarks.emulated import SPEC, Emulated, Race, Track, in_lockstep
from benchmarks.ranks import Team, Transport
from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.plan.shares import Cost, quickest
from smolcluster.strategies.base import build_strategy

PACE_S = 0.008
SLOWER = 2.0
RATES = (1e-3, 3e-3, 1e-2)
# The first steps make room in memory.
WARM_UP = 3

# A rank's training at a learning rate: race, rank, rate.
Train = Callable[[Race, int, float], Track]


def ddp(race: Race, rank: int, rate: float) -> Track:
    """torch's DistributedDataParallel, as it comes: the same share for everybody."""
    model = Emulated(race.pace_s[rank])
    module = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        module(x, y).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimizer.step()

    return in_lockstep(race, rank, race.even, model, step)


def balanced(race: Race, rank: int, rate: float) -> Track:
    """classicdp with the shares of `balance: auto`, from the paces as a profile would have measured them."""
    model = Emulated(race.pace_s[rank])
    strategy: Any = build_strategy(context_of("classicdp", 0, rank, race.world_size, SPEC), model)
    shares = quickest(race.batch, [Cost(pace_s) for pace_s in race.pace_s])
    track = in_lockstep(race, rank, shares, model, lambda x, y: strategy.train_step([(x, y)], rate))
    strategy.close()
    return track


@dataclass(frozen=True)
class Contestant:
    """How its ranks are joined, and what each of them does. One that is not in lockstep (edp, diloco) makes its Track
    by itself: validation losses of rank 0 by its own clock, which stands while it looks, every race.look x race.batch
    samples of all ranks together; `steps_s`: seconds by race.batch samples.
    """

    transport: Transport
    train: Train


REFERENCE = "DDP (gloo)"
CONTESTANTS: dict[str, Contestant] = {
    REFERENCE: Contestant("gloo", ddp),
    "classicdp, balanced (smol)": Contestant("smol", balanced),
}


def trainings(
    name: str, race: Race, rates: tuple[float, ...], rank: int, _: int, __: Any
) -> dict[str, Callable[[], Any]]:
    """What a rank of that contestant can be told to do: a training at each rate."""
    train = CONTESTANTS[name].train
    return {f"{rate:g}": partial(train, race, rank, rate) for rate in rates}


def run(race: Race, rates: tuple[float, ...]) -> dict[str, dict[float, Track]]:
    """Every contestant at every rate, by turns: rank 0's tracks."""
    tracks: dict[str, dict[float, Track]] = {name: {} for name in CONTESTANTS}
    with ExitStack() as stack:
        teams = {
            name: stack.enter_context(
                Team(race.world_size, one.transport, partial(trainings, name, race, rates), one.transport == "smol")
            )
            for name, one in CONTESTANTS.items()
        }
        for rate in rates:
            for name, team in teams.items():
                tracks[name][rate] = team.do(f"{rate:g}")[0].value
                print(f"{name} at {rate:g}: {tracks[name][rate].losses[-1][2]:.4f}", file=sys.stderr, flush=True)
    return tracks


def rows(race: Race, tracks: dict[str, dict[float, Track]]) -> dict[str, dict[str, float | None]]:
    """By contestant: tokens a second, its best rate, the loss it ends with there, seconds to the reference's loss."""
    goal = min(track.losses[-1][2] for track in tracks[REFERENCE].values())
    found: dict[str, dict[str, float | None]] = {}
    for name, by_rate in tracks.items():
        step_s = statistics.median(took for track in by_rate.values() for took in track.steps_s[WARM_UP:])
        times = {rate: track.seconds_to(goal) for rate, track in by_rate.items()}
        got_there = {rate: seconds for rate, seconds in times.items() if seconds is not None}
        best = min(got_there, key=lambda rate: got_there[rate]) if got_there else None
        ends = {rate: track.losses[-1][2] for rate, track in by_rate.items()}
        found[name] = {
            "tokens_per_s": race.batch * SPEC.max_seq_len / step_s,
            "step_s": step_s,
            "best_rate": best if best is not None else min(ends, key=lambda rate: ends[rate]),
            "loss": ends[best] if best is not None else min(ends.values()),
            "seconds_to_loss": got_there.get(best) if best is not None else None,
        }
    return found


def judge(found: dict[str, dict[str, float | None]]) -> list[Target]:
    """What is asked for, and whether it was reached."""
    reference = found[REFERENCE]
    others = {name: row for name, row in found.items() if name != REFERENCE}
    faster = [
        Target.at_least(f"{name} / DDP, tokens per second", [_ratio(row, reference, "tokens_per_s")], 1.4)
        for name, row in others.items()
    ]
    sooner = max(_ratio(reference, row, "seconds_to_loss") for row in others.values())
    return [*faster, Target.at_least("time to the same loss, DDP / the best of the others", [sooner], 1.3)]


def _ratio(one: dict[str, float | None], other: dict[str, float | None], key: str) -> float:
    """0 where one of the two has no such number: it never got there."""
    mine, theirs = one[key], other[key]
    return mine / theirs if mine is not None and theirs else 0.0


def show(console: Console, race: Race, found: dict[str, dict[str, float | None]]) -> None:
    """Print the table."""
    paces = ", ".join(f"{pace_s * 1000:g}" for pace_s in race.pace_s)
    table = Table(title=f"{race.batch} samples a step, {paces} ms each by rank (emulated)")
    for column in ("", "tokens/s", "step ms", "best rate", "loss", "s to DDP's loss"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in found.items():
        seconds = row["seconds_to_loss"]
        cells = [f"{row['tokens_per_s']:,.0f}", f"{(row['step_s'] or 0) * 1e3:,.0f}", f"{row['best_rate']:g}"]
        table.add_row(name, *cells, f"{row['loss']:.4f}", "never" if seconds is None else f"{seconds:.1f}")
    console.print(table)


def main() -> int:
    options = flags_for("unequal", __doc__, "120 steps", "400 steps, more rates").parse_args()
    steps, rates = (400, (*RATES, 3e-4, 3e-2)) if options.full else (120, RATES)
    race = Race(pace_s=(PACE_S, PACE_S, SLOWER * PACE_S), batch=24, steps=steps, look=10)
    tracks = run(race, rates)
    found = rows(race, tracks)
    targets = judge(found)
    console = Console()
    show(console, race, found)
    show_targets(console, targets)
    figures = {
        "torch": torch.__version__,
        "pace_s": race.pace_s,
        "batch": race.batch,
        "steps": steps,
        "contestants": found,
        "losses": {name: {f"{rate:g}": t.losses for rate, t in by.items()} for name, by in tracks.items()},
    }
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
