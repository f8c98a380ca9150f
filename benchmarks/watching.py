"""What it costs to see a run: how soon one of a million steps is open, and how much its records slow a step.

    python -m benchmarks.watching --quick --out watching.json

The run has three ranks whose metrics.jsonl the real writer wrote and thinned, a million steps. Commands are started as
a person does, each in a process of its own; both the seconds on the wall and those of the processor are shown, the
latter are judged: on a busy machine the former are somebody else's.

A step is the local default's (192 wide, 4 layers, 8 samples of 128 tokens) in this process. Blocks of bare steps and of
steps that are recorded, with the links every 50, take turns; while the latter run a real `watch` looks at the folder.
It is up before a block begins: what its start takes, once in a run, is no part of a step. On two cores a ratio of two
in a hundred is little more than chance, so what recording takes of the processor is measured by itself too.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.models.build import build_model
from smolcluster.plan.types import Plan, RankPlan
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import LinkRecord, StepRecord
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import RankResult, RunFolder, write_atomic
from smolcluster.spec.run import CommSpec, DataSpec, GPTSpec, Participant, RunSpec, ScheduleSpec, TrainingSpec

STEPS = 1_000_000
OPEN_S, COST = 2.0, 1.02
# Of a step that takes a twentieth of a second, the fastest of a home computer, a thousandth.
RECORD_US = 50.0
RECORDS = 100_000
NODES = ("node1", "node2", "node3")
MODEL = GPTSpec(
    model_dim=192,
    num_layers=4,
    num_heads=4,
    ff_dim=768,
    dropout=0,
    max_seq_len=128,
    tie_embeddings=True,
    vocab_size=2048,
)
LINKS_EVERY = 50


def plan() -> Plan:
    """Three ranks of this machine."""
    run = RunSpec(
        strategy="classicdp",
        participants=tuple(Participant(node=node, port=0) for node in NODES),
        model=MODEL,
        training=TrainingSpec(batch_size=8, epochs=1, max_steps=STEPS, learning_rate=1e-3),
        schedule=ScheduleSpec(warmup_iters=0, min_lr=1e-4),
        data=DataSpec(dataset="pydoc", tokenizer="bpe:2048"),
        comm=CommSpec(),
        seed=1,
        project_name="benchmark",
    )
    ranks = tuple(
        RankPlan(
            rank=rank, node=node, local_rank=0, role="worker", device="cpu", listen=("127.0.0.1",), port=0, peers={},
            samples=8, buffer_mb=1, threads=1,
        )
        for rank, node in enumerate(NODES)
    )  # fmt: skip
    return Plan(
        cluster="benchmark", run=run, world_size=3, transport="smol", shape="MESH", global_batch=24, ranks=ranks,
        params=2_197_632, memory=(),
    )  # fmt: skip


def record(step: int) -> StepRecord:
    """A step's line, with a loss that falls and a draw on it."""
    return StepRecord(
        step=step, time=1e9 + step / 2, loss=2 + 5 / (1 + step / 1e4) + step * 7919 % 100 / 1000, lr=1e-3, tokens=1024,
        tokens_per_s=2000.0, grad_norm=1.25, step_s=0.5, compute_s=0.4, comm_s=0.1, bytes_out=11_000_000,
        bytes_in=11_000_000, total_steps=STEPS, val_loss=2.0 if step % 10_000 == 0 else None,
    )  # fmt: skip


def link(step: int, peer: int) -> LinkRecord:
    """A link's line, as whole as on Linux."""
    return LinkRecord(
        step=step, time=1e9 + step / 2, peer=peer, node=NODES[peer], address=f"10.10.0.{peer + 1}",
        seconds=LINKS_EVERY / 2, bytes_out=11_000_000 * LINKS_EVERY, bytes_in=11_000_000 * LINKS_EVERY, mbps=352.0,
        rtt_ms=0.3, rtt_by="ping", buffered=65_536, unread=0,
    )  # fmt: skip


def long_run(runs: Path, steps: int) -> RunFolder:
    """The folder of a run of so many steps, as its ranks would have left it."""
    folder = RunFolder(runs / "long")
    write_atomic(folder.plan, plan().to_json())
    with MetricsWriter(folder.metrics(NODES[0], 0)) as metrics:
        for step in range(1, steps + 1):
            metrics.write(record(step))
            if step % LINKS_EVERY == 0:
                for peer in (1, 2):
                    metrics.write(link(step, peer))
    for rank, node in enumerate(NODES):
        if rank:
            folder.rank(node, rank).mkdir(parents=True)
            shutil.copy(folder.metrics(NODES[0], 0), folder.metrics(node, rank))
        write_result(
            folder,
            RankResult(
                rank=rank, node=node, status="completed", exit_code=0, steps=steps, tokens=steps * 1024,
                seconds=steps / 2, loss_first=7.0, loss_last=2.0, val_loss_first=7.5, val_loss=2.0, peak_rss_mb=500.0,
            ),
        )  # fmt: skip
    return folder


def opened(arguments: list[str], times: int) -> dict[str, float]:
    """Median seconds of a command, on the wall and of the processor."""
    wall, processor = [], []
    for _ in range(times):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "smolcluster", *arguments]
        subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - began)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_s": statistics.median(wall), "processor_s": statistics.median(processor)}


def costs(folder: RunFolder, rounds: int, block: int) -> tuple[list[float], list[float]]:
    """Seconds of bare steps and of recorded ones, a median for each block, taking turns."""
    torch.set_num_threads(1)
    model = build_model(MODEL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randint(0, MODEL.vocab_size, (8, MODEL.max_seq_len))
    write_atomic(folder.plan, plan().to_json())
    bare: list[float] = []
    seen: list[float] = []
    number = 0
    with MetricsWriter(folder.metrics(NODES[0], 0)) as metrics:
        for turn in range(2 * rounds + 2):
            recorded = turn % 2 == 1
            if recorded:
                metrics.write(record(number + 1))
            watcher = _watch(folder) if recorded else None
            taken = []
            for _ in range(block):
                number += 1
                began = time.perf_counter()
                optimizer.zero_grad()
                model.loss(x, x).backward()
                optimizer.step()
                if recorded:
                    metrics.write(record(number))
                    if number % LINKS_EVERY == 0:
                        metrics.write(link(number, 1))
                        metrics.write(link(number, 2))
                taken.append(time.perf_counter() - began)
            if watcher is not None:
                watcher.terminate()
                watcher.wait(60)
            if turn > 1:  # the first of each warm up
                (seen if recorded else bare).append(statistics.median(taken))
    return bare, seen


def _watch(folder: RunFolder) -> subprocess.Popen[bytes]:
    """A watcher that has shown its first line. Those of a block fit into its pipe."""
    command = [sys.executable, "-m", "smolcluster", "watch", str(folder.path)]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert watcher.stdout is not None
    watcher.stdout.readline()
    return watcher


def recording_us(folder: RunFolder) -> float:
    """Microseconds of the processor that a step's records take: made, written, and now and then thinned."""
    with MetricsWriter(folder.metrics(NODES[1], 1)) as metrics:
        began = time.process_time()
        for number in range(1, RECORDS + 1):
            metrics.write(record(number))
            if number % LINKS_EVERY == 0:
                metrics.write(link(number, 0))
                metrics.write(link(number, 2))
        return (time.process_time() - began) / RECORDS * 1e6


def main() -> int:
    options = flags_for("watching", __doc__, "3 starts, 6 blocks", "9 starts, 20 blocks").parse_args()
    with tempfile.TemporaryDirectory(prefix="watching-") as temporary:
        runs = Path(temporary)
        long = long_run(runs, STEPS)
        name = str(long.path)
        commands = {
            "report --html": ["report", name, "--html"],
            "compare": ["compare", name, name],
            "watch": ["watch", name],
        }
        starts = 9 if options.full else 3
        times = {what: opened(arguments, starts) for what, arguments in commands.items()}
        megabytes = long.metrics(NODES[0], 0).stat().st_size / 1e6
        recording = recording_us(RunFolder(runs / "records"))
        bare, seen = costs(RunFolder(runs / "steps"), 20 if options.full else 6, 20)
    for what, taken in times.items():
        print(f"{what:<14} {taken['wall_s']:6.2f} s on the wall, {taken['processor_s']:6.2f} s of the processor")
    print(f"metrics.jsonl  {megabytes:6.2f} MB after {STEPS:,} steps")
    ratios = [after / before for before, after in zip(bare, seen, strict=True)]
    ratio = statistics.median(ratios)
    print(f"a record       {recording:6.1f} us of the processor for each step")
    print(f"a step         {statistics.median(bare) * 1000:6.1f} ms bare, {ratio:.4f} times that recorded and watched")
    targets = [
        Target.at_most(
            "open a run of a million steps, processor seconds", [t["processor_s"] for t in times.values()], OPEN_S
        ),
        Target.at_most("microseconds of the processor that recording a step takes", [recording], RECORD_US),
        Target.at_most("a step recorded and watched, times a bare one", [ratio], COST),
    ]
    show_targets(Console(), targets)
    figures: dict[str, Any] = {
        "open": times,
        "metrics_mb": megabytes,
        "record_us": recording,
        "bare_s": bare,
        "recorded_s": seen,
    }
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    raise SystemExit(main())
