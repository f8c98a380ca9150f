"""Three machines, one of them always half as fast: who makes the best of them. torch DDP beside what we have.

    python -m benchmarks.unequal --quick --out unequal.json

Computing is emulated (benchmarks/emulated.py): a fixed time per sample, twice as long on the last rank, so that ranks
do not share cores; gradients, optimizers and messages are real, and so is edp's server, a process of its own. Each
contestant (benchmarks/racers.py) trains at every learning rate of the same small search, in turn, the others standing
still. A training's speed is that from its first look to its last; tokens a second are the median training's, a ratio
is the median of the rates' own ratios. The time to the same loss is each one's at its own best rate, to the loss that
DDP ends with at its best. diloco and edp go on for as long as DDP takes, since they may learn less from a sample; the
losses of the table are those after the same samples, of weights and on samples that racers.py tells.

The ceiling is 5/3: DDP gives everybody the same share, and waits for the slow one.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.emulated import SPEC, Race, Track
from benchmarks.racers import CONTESTANTS, REFERENCE
from benchmarks.ranks import Team, Transport
from benchmarks.targets import Target, conclude, flags_for, show_targets

PACE_S = 0.008
SLOWER = 2.0
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)

Tracks = Mapping[str, Mapping[float, Track]]


def trainings(
    names: tuple[str, ...], race: Race, rates: tuple[float, ...], rank: int, _: int, __: Any
) -> dict[str, Callable[[], Any]]:
    """What a rank of these contestants can be told to do: a training of each at each rate."""
    race.make_samples()
    return {f"{name} {rate:g}": partial(CONTESTANTS[name].train, race, rank, rate) for name in names for rate in rates}


def run(race: Race, rates: tuple[float, ...]) -> dict[str, dict[float, Track]]:
    """Every contestant at every rate, by turns: rank 0's tracks."""
    tracks: dict[str, dict[float, Track]] = {name: {} for name in CONTESTANTS}
    seats: dict[tuple[Transport, int], list[str]] = {}
    for name, one in CONTESTANTS.items():
        seats.setdefault((one.transport, race.world_size + one.servers), []).append(name)
    with ExitStack() as stack:
        teams: dict[str, Team] = {}
        for (transport, ranks), names in seats.items():
            setup = partial(trainings, tuple(names), race, rates)
            team = stack.enter_context(Team(ranks, transport, setup, keep_memory=transport == "smol"))
            teams.update(dict.fromkeys(names, team))
        for rate in rates:
            for name in CONTESTANTS:
                track = tracks[name][rate] = teams[name].do(f"{name} {rate:g}")[0].value
                told = f"{track.step_s * 1e3:.0f} ms a step, loss {track.loss_after(race.steps):.4f}"
                print(f"{name} at {rate:g}: {told}", file=sys.stderr, flush=True)
    return tracks


@dataclass(frozen=True)
class Row:
    """A contestant. `speed`: its tokens/s over those of the reference. `best_rate`: with which it is the first at the
    reference's loss, or, where it is there with none, is best after the same samples; `loss`: after these; `seconds`:
    to the reference's.
    """

    tokens_per_s: float
    step_s: float
    speed: float
    best_rate: float
    loss: float
    seconds: float | None


def rows(race: Race, tracks: Tracks) -> dict[str, Row]:
    """By contestant."""
    reference = tracks[REFERENCE]
    goal = min(track.loss_after(race.steps) for track in reference.values())
    found = {}
    for name, by_rate in tracks.items():
        step_s = statistics.median(track.step_s for track in by_rate.values())
        times = {rate: track.seconds_to(goal) for rate, track in by_rate.items()}
        there = {rate: seconds for rate, seconds in times.items() if seconds is not None}
        ends = {rate: track.loss_after(race.steps) for rate, track in by_rate.items()}
        best = min(there or ends, key=(there or ends).__getitem__)
        speed = statistics.median(reference[rate].step_s / track.step_s for rate, track in by_rate.items())
        tokens_per_s = race.batch * SPEC.max_seq_len / step_s
        found[name] = Row(tokens_per_s, step_s, speed, best, ends[best], there.get(best))
    return found


def judge(found: Mapping[str, Row]) -> list[Target]:
    """What is asked for, and whether it was reached."""
    others = {name: row for name, row in found.items() if name != REFERENCE}
    faster = [Target.at_least(f"{name} / DDP, tokens per second", [row.speed], 1.4) for name, row in others.items()]
    sooner = max(sooner_by(found, row) for row in others.values())
    return [*faster, Target.at_least("time to the same loss, DDP / the best of the others", [sooner], 1.3)]


def sooner_by(found: Mapping[str, Row], row: Row) -> float:
    """How many times as long the reference takes to its loss; 0 for one that never gets there."""
    reference = found[REFERENCE].seconds
    assert reference is not None, "it is its own loss"
    return reference / row.seconds if row.seconds else 0.0


def show(console: Console, race: Race, rates: tuple[float, ...], found: Mapping[str, Row]) -> None:
    """Print the table."""
    paces = ", ".join(f"{pace_s * 1000:g}" for pace_s in race.pace_s)
    searched = ", ".join(f"{rate:g}" for rate in rates)
    title = f"{race.steps} steps of {race.batch} samples, {paces} ms each by rank (emulated); rates {searched}"
    table = Table(title=title)
    for column in ("", "tokens/s", "step ms", "of DDP", "best rate", "loss, same samples", "s to DDP's loss", "sooner"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in found.items():
        cells = [f"{row.tokens_per_s:,.0f}", f"{row.step_s * 1e3:,.0f}", f"{row.speed:.2f}x", f"{row.best_rate:g}"]
        there = ["never", ""] if row.seconds is None else [f"{row.seconds:.1f}", f"{sooner_by(found, row):.2f}x"]
        table.add_row(name, *cells, f"{row.loss:.4f}", *there)
    console.print(table)


def main() -> int:
    options = flags_for("unequal", __doc__, "80 steps, 5 rates", "400 steps, 7 rates").parse_args()
    steps, rates = (400, (5e-4, *RATES, 3.2e-2)) if options.full else (80, RATES)
    race = Race(pace_s=(PACE_S, PACE_S, SLOWER * PACE_S), batch=24, steps=steps, look=5)
    tracks = run(race, rates)
    found = rows(race, tracks)
    targets = judge(found)
    console = Console(width=140)
    show(console, race, rates, found)
    show_targets(console, targets)
    figures = {
        "torch": torch.__version__,
        "pace_s": race.pace_s,
        "batch": race.batch,
        "steps": steps,
        "rates": rates,
        "contestants": {name: asdict(row) for name, row in found.items()},
        "losses": {name: {f"{rate:g}": t.losses for rate, t in by.items()} for name, by in tracks.items()},
    }
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
