"""Training steps: classicdp and fsdp over smol beside DDP and ZeRO over gloo, and what they put on the wire and hold.

    python -m benchmarks.training --quick --out training.json

All contestants live in the same processes and take turns step by step, so that whatever else the machine does falls on
all of them. Time is the slowest rank's, CPU seconds are all ranks', both medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import GPT, batch_of, ours, torchs
from benchmarks.ranks import on_ranks

SAMPLES, WORLD = 4, 2
OURS = {"classicdp": ("classicdp", 0), "fsdp 0": ("fsdp", 0), "fsdp 1": ("fsdp", 1)}


@dataclass(frozen=True)
class Target:
    """One thing the issue asks for."""

    what: str
    value: float
    limit: str
    passed: bool


def race(rank: int, world_size: int, _: Any, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall seconds, CPU seconds) of this rank for every contestant and round; the first two rounds are not counted."""
    gloo = dist.new_group(backend="gloo")
    steps = {
        "classicdp (smol)": ours("classicdp", 0, rank, world_size)[1],
        "DDP (gloo)": torchs(zero=False, fused=False, group=gloo),
        "DDP, fused AdamW (gloo)": torchs(zero=False, fused=True, group=gloo),
        "fsdp 1 (smol)": ours("fsdp", 1, rank, world_size)[1],
        "DDP + ZeRO (gloo)": torchs(zero=True, fused=False, group=gloo),
        "DDP + ZeRO, fused AdamW (gloo)": torchs(zero=True, fused=True, group=gloo),
    }
    x, y = batch_of(rank, SAMPLES)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds + 2):
        # Another one goes first each round.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name](x, y)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if number >= 2:
                measured[name].append(spent)
    return measured


def weigh(rank: int, world_size: int, fabric: Any, strategy: str, stage: int) -> dict[str, float]:
    """Bytes this rank sends in a step and bytes of state it holds. The batch is small: neither depends on it."""
    built, step = ours(strategy, stage, rank, world_size)
    x, y = batch_of(rank, 1, length=8)
    step(x, y)
    before = fabric.counters()
    step(x, y)
    sent = fabric.counters().bytes_out - before.bytes_out
    params = sum(p.nbytes for p in built.model.parameters())
    return {"sent": sent, "params": params, "state": sum(built.state_bytes().values())}


def times(rounds: int) -> dict[str, dict[str, float]]:
    """For every contestant: seconds a step, tokens a second, CPU seconds of all ranks a step."""
    ranks = on_ranks(WORLD, race, rounds)
    outcome = {}
    for name in ranks[0]:
        walls = [max(rank[name][n][0] for rank in ranks) for n in range(rounds)]
        cpus = [sum(rank[name][n][1] for rank in ranks) for n in range(rounds)]
        wall = statistics.median(walls)
        outcome[name] = {
            "step_s": wall,
            "tokens_per_s": WORLD * SAMPLES * GPT.max_seq_len / wall,
            "cpu_s": statistics.median(cpus),
            "step_s_min": min(walls),
            "step_s_max": max(walls),
        }
    return outcome


def bytes_and_state(worlds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Per strategy and world size: bytes a rank sends in a step beside the ring's optimum, state beside theory."""
    rows = []
    for world_size in worlds:
        for name, (strategy, stage) in OURS.items():
            ranks = on_ranks(world_size, weigh, strategy, stage)
            params = ranks[0]["params"]
            theory = (2 + 2 / world_size if stage == 1 else 4) * params
            rows.append(
                {
                    "strategy": name,
                    "world_size": world_size,
                    "sent_bytes": max(rank["sent"] for rank in ranks),
                    "ring_bytes": 2 * (world_size - 1) / world_size * params,
                    "state_bytes": max(rank["state"] for rank in ranks),
                    "theory_bytes": theory,
                }
            )
    return rows


def judge(raced: dict[str, dict[str, float]], weighed: list[dict[str, Any]]) -> list[Target]:
    """The issue's targets and whether they were reached."""
    speed = raced["classicdp (smol)"]["tokens_per_s"] / raced["DDP (gloo)"]["tokens_per_s"]
    zero_speed = raced["fsdp 1 (smol)"]["tokens_per_s"] / raced["DDP + ZeRO (gloo)"]["tokens_per_s"]
    zero_cpu = raced["fsdp 1 (smol)"]["cpu_s"] / raced["DDP + ZeRO (gloo)"]["cpu_s"]
    wire = max(abs(row["sent_bytes"] / row["ring_bytes"] - 1) for row in weighed)
    state = max(abs(row["state_bytes"] / row["theory_bytes"] - 1) for row in weighed)
    return [
        Target("classicdp / DDP, tokens per second", speed, ">= 1.00", speed >= 1.0),
        Target("fsdp 1 / DDP + ZeRO, tokens per second", zero_speed, ">= 1.05", zero_speed >= 1.05),
        Target("fsdp 1 / DDP + ZeRO, CPU seconds", zero_cpu, "<= 0.85", zero_cpu <= 0.85),
        Target("bytes sent, farthest from the ring's optimum", wire, "<= 0.02", wire <= 0.02),
        Target("model state, farthest from theory", state, "<= 0.05", state <= 0.05),
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
    verdict = Table(title="targets")
    for column in ("", "measured", "wanted", ""):
        verdict.add_column(column)
    for target in targets:
        colour = "green" if target.passed else "red"
        verdict.add_row(
            target.what, f"{target.value:.3f}", target.limit, f"[{colour}]{'pass' if target.passed else 'miss'}[/]"
        )
    for table in (steps, accounts, verdict):
        console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="rounds", const=7, help="7 rounds (the default)")
    size.add_argument("--full", action="store_const", dest="rounds", const=25, help="25 rounds")
    parser.set_defaults(rounds=7)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    raced = times(options.rounds)
    weighed = bytes_and_state((2, 3, 4))
    targets = judge(raced, weighed)
    show(Console(), raced, weighed, targets)
    if options.out:
        figures = {
            "schema": 1,
            "torch": torch.__version__,
            "rounds": options.rounds,
            "steps": raced,
            "bytes": weighed,
            "targets": [asdict(target) for target in targets],
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(target.passed for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
