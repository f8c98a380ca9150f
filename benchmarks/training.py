"""Training steps: classicdp and fsdp over smol beside DDP, ZeRO and FSDP2, and what they put on the wire and hold.

    python -m benchmarks.training --quick --out training.json

Ours run in processes set up as our worker sets them up, torch's own in plain ones; its FSDP2 runs over both backends,
each made by init_process_group as in any script (which sets the allocator for smol, see benchmarks.fsdp2).
They take turns step by step, the others standing still meanwhile, so that whatever else the machine does falls on all
of them. Time is the slowest rank's, CPU seconds are all ranks', both medians; a ratio is the median of the rounds' own
ratios, since the speed of a shared machine drifts from round to round. `--full` adds rows that say where the difference
comes from: torch's with the fused AdamW, and with our setting of the allocator.
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

from benchmarks.contestants import GPT, batch_of, fsdp2, ours, torchs
from benchmarks.ranks import Done, Team
from benchmarks.targets import Target, conclude, flags_for, show_targets

SAMPLES, WORLD, WARM_UP = 4, 2, 2
Tasks = dict[str, Callable[[], Any]]
OURS = {"classicdp": ("classicdp", 0), **{f"fsdp {stage}": ("fsdp", stage) for stage in range(4)}}


def our_steps(rank: int, world_size: int, _: Any) -> Tasks:
    """Our contestants, by the names in the table."""
    x, y = batch_of(rank, SAMPLES)
    steps = {
        "classicdp (smol)": ours("classicdp", 0, rank, world_size)[1],
        **{f"fsdp {stage} (smol)": ours("fsdp", stage, rank, world_size)[1] for stage in (1, 2, 3)},
    }
    return {name: partial(step, x, y) for name, step in steps.items()}


def torchs_steps(rank: int, _: int, __: Any) -> Tasks:
    """Torch's own, as they come."""
    x, y = batch_of(rank, SAMPLES)
    steps = {
        "DDP (gloo)": torchs(zero=False, fused=False),
        "DDP + ZeRO (gloo)": torchs(zero=True, fused=False),
    }
    return {name: partial(step, x, y) for name, step in steps.items()} | _fsdp2_steps(rank, "gloo", fused=False)


def fsdp2_steps(rank: int, _: int, __: Any) -> Tasks:
    """Torch's FSDP2 as it comes, over our backend."""
    return _fsdp2_steps(rank, "smol", fused=False)


def fsdp2_best_steps(rank: int, _: int, __: Any) -> Tasks:
    """The same with the fused AdamW (and, in the team that runs them, our setting of the allocator)."""
    return _fsdp2_steps(rank, "smol", fused=True)


def _fsdp2_steps(rank: int, transport: str, fused: bool) -> Tasks:
    x, y = batch_of(rank, SAMPLES)
    more = ", fused AdamW, our malloc" if fused else ""
    return {
        f"FSDP2 ({transport}){more}": partial(fsdp2(reshard=True, fused=fused), x, y),
        f"FSDP2, no reshard ({transport}){more}": partial(fsdp2(reshard=False, fused=fused), x, y),
    }


def torchs_best_steps(rank: int, _: int, __: Any) -> Tasks:
    """Torch's own with the fused AdamW (and, in the team that runs them, our setting of the allocator)."""
    x, y = batch_of(rank, SAMPLES)
    steps = {
        "DDP (gloo), fused AdamW, our malloc": torchs(zero=False, fused=True),
        "DDP + ZeRO (gloo), fused AdamW, our malloc": torchs(zero=True, fused=True),
    }
    return {name: partial(step, x, y) for name, step in steps.items()}


def our_accounts(rank: int, world_size: int, fabric: Any) -> Tasks:
    """For each of our strategies: the bytes this rank sends in a step and the bytes of state it holds."""

    def weigh(strategy: str, stage: int) -> dict[str, float]:
        built, step = ours(strategy, stage, rank, world_size)
        x, y = batch_of(rank, 1, length=8)  # neither figure depends on the batch
        step(x, y)
        before = fabric.counters()
        step(x, y)
        sent = fabric.counters().bytes_out - before.bytes_out
        params = sum(p.nbytes for p in built.model.parameters())
        return {"sent": sent, "params": params, "state": sum(built.state_bytes().values())}

    return {name: partial(weigh, *which) for name, which in OURS.items()}


@dataclass(frozen=True)
class Timed:
    """One contestant's steps, a number a round: the slowest rank's wall seconds, all ranks' CPU seconds."""

    wall_s: list[float]
    cpu_s: list[float]

    def medians(self) -> dict[str, float]:
        """For the table and the JSON."""
        wall = statistics.median(self.wall_s)
        return {
            "step_s": wall,
            "step_s_min": min(self.wall_s),
            "step_s_max": max(self.wall_s),
            "tokens_per_s": WORLD * SAMPLES * GPT.max_seq_len / wall,
            "cpu_s": statistics.median(self.cpu_s),
        }


def times(rounds: int, full: bool) -> dict[str, Timed]:
    """Every contestant's steps."""
    with ExitStack() as stack:
        teams = [
            stack.enter_context(Team(WORLD, "smol", our_steps, keep_memory=True)),
            stack.enter_context(Team(WORLD, "gloo", torchs_steps, keep_memory=False)),
            stack.enter_context(Team(WORLD, "smol script", fsdp2_steps, keep_memory=False)),
        ]
        if full:
            teams.append(stack.enter_context(Team(WORLD, "gloo", torchs_best_steps, keep_memory=True)))
            teams.append(stack.enter_context(Team(WORLD, "smol script", fsdp2_best_steps, keep_memory=True)))
        turns = [(team, task) for team in teams for task in team.tasks]
        measured: dict[str, list[list[Done]]] = {task: [] for _, task in turns}
        for number in range(WARM_UP + rounds):
            shift = number % len(turns)  # another one goes first each round
            for team, task in turns[shift:] + turns[:shift]:
                done = team.do(task)
                if number >= WARM_UP:
                    measured[task].append(done)
            print(f"round {number + 1} of {WARM_UP + rounds}", file=sys.stderr, flush=True)
    return {
        task: Timed(
            [max(rank.wall_s for rank in ranks) for ranks in done],
            [sum(rank.cpu_s for rank in ranks) for ranks in done],
        )
        for task, done in measured.items()
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of ours / theirs."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def bytes_and_state(worlds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Per strategy and world size: bytes a rank sends in a step beside theory, and the state it holds beside theory."""
    rows = []
    for world_size in worlds:
        with Team(world_size, "smol", our_accounts, keep_memory=False) as team:
            weighed = {name: [done.value for done in team.do(name)] for name in team.tasks}
        for name, ranks in weighed.items():
            params, stage = ranks[0]["params"], OURS[name][1]
            state = {1: 2 + 2 / world_size, 2: 1 + 3 / world_size, 3: 4 / world_size}.get(stage, 4)
            rows.append(
                {
                    "strategy": name,
                    "world_size": world_size,
                    "sent_bytes": max(rank["sent"] for rank in ranks),
                    # A ring's optimum for an all-reduce; for stage 3 that of two gathers and a reduce-scatter.
                    "ring_bytes": (3 if stage == 3 else 2) * (world_size - 1) / world_size * params,
                    "state_bytes": max(rank["state"] for rank in ranks),
                    "theory_bytes": state * params,
                }
            )
        print(f"bytes at {world_size} ranks", file=sys.stderr, flush=True)
    return rows


def judge(raced: dict[str, Timed], weighed: list[dict[str, Any]]) -> list[Target]:
    """What is asked for, and whether it was reached."""
    zero, ddp = raced["DDP + ZeRO (gloo)"], raced["DDP (gloo)"]
    # Tokens a second are the same tokens over the seconds, so their ratio is that of the seconds upside down.
    speed = ratio(ddp.wall_s, raced["classicdp (smol)"].wall_s)
    zero_speed = ratio(zero.wall_s, raced["fsdp 1 (smol)"].wall_s)
    zero_cpu = ratio(raced["fsdp 1 (smol)"].cpu_s, zero.cpu_s)
    wire = [abs(row["sent_bytes"] / row["ring_bytes"] - 1) for row in weighed]
    state = [abs(row["state_bytes"] / row["theory_bytes"] - 1) for row in weighed]
    sharded, whole = raced["FSDP2 (smol)"].wall_s, raced["FSDP2, no reshard (smol)"].wall_s
    transport = ratio(raced["FSDP2 (gloo)"].wall_s, sharded)
    stage_2 = ratio(whole, raced["fsdp 2 (smol)"].wall_s)
    stage_3 = ratio(sharded, raced["fsdp 3 (smol)"].wall_s)
    return [
        Target.at_least("classicdp / DDP, tokens per second", [speed], 1.0),
        Target.at_least("fsdp 1 / DDP + ZeRO, tokens per second", [zero_speed], 1.05),
        Target.at_most("fsdp 1 / DDP + ZeRO, CPU seconds", [zero_cpu], 0.85),
        Target.at_least("FSDP2 on smol / FSDP2 on gloo, tokens per second", [transport], 1.3),
        Target.at_least("fsdp 2 / FSDP2 on smol without resharding, tokens per second", [stage_2], 1.0),
        Target.at_least("fsdp 3 / FSDP2 on smol, tokens per second", [stage_3], 1.0),
        Target.at_most("bytes sent, farthest from the ring's optimum", wire, 0.02),
        Target.at_most("model state, farthest from theory", state, 0.05),
    ]


def show(
    console: Console, raced: dict[str, dict[str, float]], weighed: list[dict[str, Any]], targets: list[Target]
) -> None:
    """Print the three tables."""
    steps = Table(title=f"one step, {WORLD} ranks, batch {SAMPLES} each, medians")
    for column in ("", "ms", "tokens/s", "CPU s, all ranks"):
        steps.add_column(column, justify="right" if column else "left")
    for name, row in raced.items():
        steps.add_row(name, f"{row['step_s'] * 1e3:,.0f}", f"{row['tokens_per_s']:,.0f}", f"{row['cpu_s']:.3f}")
    accounts = Table(title="a rank's bytes: sent in a step, held as model state")
    for column in ("", "ranks", "sent MB", "ring MB", "ratio", "state MB", "theory MB", "ratio "):
        accounts.add_column(column, justify="right" if column else "left")
    for row in weighed:
        accounts.add_row(
            row["strategy"],
            str(row["world_size"]),
            f"{row['sent_bytes'] / 1e6:.2f}",
            f"{row['ring_bytes'] / 1e6:.2f}",
            f"{row['sent_bytes'] / row['ring_bytes']:.4f}",
            f"{row['state_bytes'] / 1e6:.2f}",
            f"{row['theory_bytes'] / 1e6:.2f}",
            f"{row['state_bytes'] / row['theory_bytes']:.4f}",
        )
    for table in (steps, accounts):
        console.print(table)
    show_targets(console, targets)


def main() -> int:
    options = flags_for("training", __doc__, "15 rounds", "25 rounds, and more contestants").parse_args()
    rounds = 25 if options.full else 15
    timed = times(rounds, options.full)
    raced = {name: steps.medians() for name, steps in timed.items()}
    weighed = bytes_and_state((2, 3, 4))
    targets = judge(timed, weighed)
    show(Console(), raced, weighed, targets)
    figures = {"torch": torch.__version__, "rounds": rounds, "steps": raced, "bytes": weighed}
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
