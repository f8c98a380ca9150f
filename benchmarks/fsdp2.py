"""Torch's FSDP2 over smol beside FSDP2 over gloo: what the backend alone changes, with few bytes and with many.

    python -m benchmarks.fsdp2 --quick --out fsdp2.json

Two ranks, batch 4 each, gpt_config with GPT-2's vocabulary: tied (70 MB of parameters) and untied (122 MB), freed after
forward (reshard) and not. `init_process_group("smol")` also sets the process's allocator, which spares FSDP2's own
buffers their page faults; so besides a script as it comes there are rows with that setting on both sides and on
neither, which show the transport alone. Steps take turns; a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contestants import GPT, batch_of, fsdp2
from benchmarks.ranks import Team, Transport
from benchmarks.targets import conclude, flags_for

WARM_UP = 2
UNITS = {"reshard": True, "no reshard": False}
# what the processes are, and whether they all get our setting of the allocator
ALLOCATOR: dict[str, tuple[Transport, bool]] = {
    "as it comes": ("smol script", False),
    "ours on both": ("smol script", True),
    "plain on both": ("smol", False),
}


@dataclass(frozen=True)
class Row:
    """One setting. Seconds of a step, medians; `ratio` is gloo's over smol's."""

    tied: bool
    allocator: str
    units: str
    smol_s: float
    gloo_s: float
    ratio: float


def prepare(rank: int, _: int, __: Any, tied: bool) -> dict[str, Callable[[], Any]]:
    """A step with units that are freed after their forward, and one with units that stay."""
    spec = GPT.model_copy(update={"tie_embeddings": tied})
    x, y = batch_of(rank, 4, spec=spec)
    return {name: partial(fsdp2(reshard, fused=False, spec=spec), x, y) for name, reshard in UNITS.items()}


def run(tied: bool, allocator: str, rounds: int) -> list[Row]:
    """Both backends in turns."""
    setup = partial(prepare, tied=tied)
    walls: dict[tuple[str, str], list[float]] = {}
    transport, keep = ALLOCATOR[allocator]
    with Team(2, transport, setup, keep_memory=keep) as smol, Team(2, "gloo", setup, keep_memory=keep) as gloo:
        turns = [(name, team, task) for name, team in (("smol", smol), ("gloo", gloo)) for task in UNITS]
        for number in range(WARM_UP + rounds):
            shift = number % len(turns)
            for name, team, task in turns[shift:] + turns[:shift]:
                wall = max(done.wall_s for done in team.do(task))
                if number >= WARM_UP:
                    walls.setdefault((name, task), []).append(wall)
    print(f"  {'tied' if tied else 'untied'}, {allocator}", file=sys.stderr, flush=True)
    return [
        Row(
            tied,
            allocator,
            task,
            statistics.median(walls["smol", task]),
            statistics.median(walls["gloo", task]),
            statistics.median(g / s for s, g in zip(walls["smol", task], walls["gloo", task], strict=True)),
        )
        for task in UNITS
    ]


def main() -> int:
    flags = flags_for("fsdp2", __doc__, "7 rounds", "15 rounds").parse_args()
    rounds = 15 if flags.full else 7
    rows = [row for tied in (True, False) for allocator in ALLOCATOR for row in run(tied, allocator, rounds)]
    table = Table(title="FSDP2, one step, 2 ranks, batch 4 each, medians")
    for column in ("embeddings", "units", "allocator", "smol ms", "gloo ms", "gloo / smol"):
        table.add_column(column, justify="right" if "m" in column[:3] or "/" in column else "left")
    for row in rows:
        table.add_row(
            "tied" if row.tied else "untied", row.units, row.allocator,
            f"{row.smol_s * 1e3:,.0f}", f"{row.gloo_s * 1e3:,.0f}", f"{row.ratio:.2f}",
        )  # fmt: skip
    Console(width=100).print(table)
    return conclude(flags.out, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    sys.exit(main())
