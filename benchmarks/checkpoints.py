"""What checkpoints cost: training with one every 50 steps beside none, and the time from a resume to its first step.

    python -m benchmarks.checkpoints --quick --out checkpoints.json

Two ranks of fsdp 1 take 10 steps in turns, now with a checkpoint begun before them and written meanwhile, now without.
What the first take longer is what one checkpoint costs; beside 50 steps without any it is the cost of one every 50
steps, and the figure is the median of the rounds' own. One sample a step, the vocabulary of GPT-2: a step is short and
the state large beside it. A resume is `python -m smolcluster.train --resume latest` with three ranks on this machine,
from the start of that process to the line of its first step.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contestants import GPT, batch_of, context_of, ours
from benchmarks.ranks import Done, Team
from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.observe.records import Reader
from smolcluster.runtime.checkpoint.agree import Facts
from smolcluster.runtime.checkpoint.save import Saver
from smolcluster.runtime.runfolder import RunFolder

# A turn is short, so that what else the machine does falls on both ways.
STEPS, EVERY, WORLD = 10, 50, 2
ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600.0


def training(rank: int, world_size: int, fabric: Any) -> dict[str, Callable[[], Any]]:
    """A turn with a checkpoint and one without, and how long the training itself stood still for it."""
    built, step = ours("fsdp", 1, rank, world_size)
    x, y = batch_of(rank, 1)
    folder = Path(fabric.config.endpoint_file).parent / "run"
    context = replace(context_of("fsdp", 1, rank, world_size, GPT), folder=RunFolder(folder), wires=fabric)
    saver = Saver(context)
    taken = 0

    def without() -> None:
        for _ in range(STEPS):
            step(x, y)

    def with_one() -> float:
        nonlocal taken
        taken += STEPS
        facts = Facts(
            step=taken, total_steps=taken, epoch=0, tokens=0, seconds=0.0, loss_first=None, loss_last=None,
            val_loss_first=None, val_loss=None, measured=False,
        )  # fmt: skip
        began = time.perf_counter()
        saver.save(facts, built.named_slices())
        stood_s = time.perf_counter() - began
        without()
        began = time.perf_counter()
        saver.finish()
        return stood_s + time.perf_counter() - began

    def warm_up() -> None:
        for _ in range(2):
            step(x, y)

    return {"warm up": warm_up, "without": without, "with": with_one}


def race(rounds: int) -> tuple[list[list[Done]], list[list[Done]]]:
    """Both ways, in turns, another one first each round."""
    found: dict[str, list[list[Done]]] = {"with": [], "without": []}
    with Team(WORLD, "smol", training, keep_memory=True) as team:
        team.do("warm up")
        for number in range(rounds):
            for task in ("with", "without") if number % 2 else ("without", "with"):
                found[task].append(team.do(task))
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found["with"], found["without"]


def cost_of(seconds: dict[str, list[float]]) -> float:
    """Steps with a checkpoint every EVERY of them / without any: the median of the rounds' own."""
    scale = STEPS / EVERY
    pairs = zip(seconds["with"], seconds["without"], strict=True)
    return statistics.median(1 + scale * (saved / plain - 1) for saved, plain in pairs)


def resumes(rounds: int) -> list[float]:
    """Seconds from the start of a resume's process to its first step done."""
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        (project / "inventory").mkdir()
        shutil.copy(ROOT / "inventory" / "local.smol.yml", project / "inventory")
        _train(project, 2)
        for number in range(rounds):
            began = time.time()
            _train(project, 3 + number, "--resume", "latest")
            steps = Reader().metrics(RunFolder((project / "runs" / "latest").resolve()).metrics("node1", 0)).steps
            seconds.append(steps[0].time - began)
            print(f"resume {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seconds


def _train(project: Path, steps: int, *flags: str) -> None:
    settings = (f"training.max_steps={steps}", "training.eval_steps=1000")
    overrides = [word for setting in settings for word in ("--override", setting)]
    subprocess.run(
        [sys.executable, "-m", "smolcluster.train", "--strategy", "fsdp", *overrides, *flags],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        timeout=LIMIT_S,
        check=True,
    )


def main() -> int:
    options = flags_for("checkpoints", __doc__, "15 rounds", "40 rounds").parse_args()
    saved, plain = race(40 if options.full else 15)
    times = {
        "with": [max(rank.wall_s for rank in ranks) for ranks in saved],
        "without": [max(rank.wall_s for rank in ranks) for ranks in plain],
    }
    cpu = {
        "with": [sum(rank.cpu_s for rank in ranks) for ranks in saved],
        "without": [sum(rank.cpu_s for rank in ranks) for ranks in plain],
    }
    stood_s = [max(rank.value for rank in ranks) for ranks in saved]
    cost, cpu_cost = cost_of(times), cost_of(cpu)
    first_steps = resumes(5 if options.full else 3)
    targets = [
        Target.at_most(f"a checkpoint every {EVERY} steps / none, time", [cost], 1.05),
        Target.at_most("slowest resume, seconds to its first step", first_steps, 15.0),
    ]
    console = Console()
    table = Table(title=f"{STEPS} steps, {WORLD} ranks, one sample each, medians")
    for column in ("", "seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in times.items():
        table.add_row(f"{name} a checkpoint", f"{statistics.median(seconds):.2f}")
    table.add_row("of these the training stood still for it", f"{statistics.median(stood_s):.3f}")
    table.add_row(f"one every {EVERY} steps, CPU time against none", f"{cpu_cost:.3f} x")
    table.add_row("a resume's first step", f"{statistics.median(first_steps):.2f}")
    console.print(table)
    show_targets(console, targets)
    figures = {
        "seconds": times,
        "cpu_s": cpu,
        "cpu_cost": cpu_cost,
        "stood_still_s": stood_s,
        "resume_s": first_steps,
    }
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
