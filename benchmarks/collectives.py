"""smol against gloo, operation by operation, in the same processes, interleaved.

    python -m benchmarks.collectives --quick --out FILE.json

For every group size, operation and size: medians over rounds of wall time per operation (the slowest rank), CPU seconds
(summed over ranks), and bytes sent per rank in units of the buffer. In a round both backends run one after the other,
and the next round begins with the other one, so that a busy machine is unfair to both alike. Trust the ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast")
QUICK_SIZES = (4, 64 << 10, 1 << 20, 16 << 20, 96 << 20)
FULL_SIZES = (4, 4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 25 << 20, 64 << 20, 120 << 20)
# One measurement takes about this long: long enough for the clock, short enough to interleave.
MEASURE_S = 0.15


@dataclass(frozen=True)
class Row:
    """Medians of one operation. Seconds per operation; `sent` is bytes sent per rank over the buffer's."""

    ranks: int
    operation: str
    dtype: str
    bytes: int
    rounds: int
    smol_s: float
    gloo_s: float
    smol_cpu_s: float
    gloo_cpu_s: float
    smol_sent: float
    gloo_sent: float


def sent_bytes() -> int:
    """Bytes this process's TCP connections have had acknowledged, gloo's too. Linux only, else 0."""
    from smolcluster.comm.stats import tcp_counters

    counted = tcp_counters(["127.0.0.1"])
    return counted[0] if counted is not None else 0


def operation(name: str, size: int, dtype: Any, n: int, group: Any) -> Callable[[], object]:
    """A call of one operation on a buffer of about `size` bytes."""
    import torch
    import torch.distributed as dist

    count = (
        max(1, size // dtype.itemsize // n) * n if name in ("reduce_scatter", "all_gather") else size // dtype.itemsize
    )
    whole, part = torch.ones(count, dtype=dtype), torch.ones(max(1, count // n), dtype=dtype)
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(whole.fill_(1) if size <= 64 else whole, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_single(part, whole, group=group),
        "all_gather": lambda: dist.all_gather_single(whole, part, group=group),
        "broadcast": lambda: dist.broadcast(whole, 0, group=group),
    }
    return calls[name]


def worker(rank: int, n: int, folder: str, cases: list[tuple[str, str, int]], rounds: int, results: Any) -> None:
    """One rank: measures every case; rank 0 reports."""
    import torch
    import torch.distributed as dist

    from smolcluster.comm import GroupConfig, open_fabric

    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)
    config = GroupConfig(
        rank=rank,
        world_size=n,
        listen=("127.0.0.1",),
        port=0,
        peers=dict.fromkeys(range(n), "127.0.0.1"),
        endpoint_file=Path(folder) / "endpoint.json",
        secret=b"benchmark",
        timeout_s=120,
    )
    with open_fabric(config):
        groups = {"smol": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
        for name, kind, size in cases:
            calls = {key: operation(name, size, getattr(torch, kind), n, group) for key, group in groups.items()}
            times = repetitions(calls)
            measured: dict[str, list[tuple[float, float, int]]] = {"smol": [], "gloo": []}
            for index in range(rounds):
                for key in ("smol", "gloo") if index % 2 == 0 else ("gloo", "smol"):
                    measured[key].append(measure(calls[key], times))
            everybody: list[Any] = [None] * n
            dist.all_gather_object(everybody, measured)
            if rank == 0:
                results.put(row(n, name, kind, size, everybody))
        dist.barrier()


def repetitions(calls: dict[str, Callable[[], object]]) -> int:
    """How often to repeat a call for one measurement: agreed by all ranks."""
    import torch
    import torch.distributed as dist

    slowest = 0.0
    for call in calls.values():
        call()
        started = time.perf_counter()
        call()
        slowest = max(slowest, time.perf_counter() - started)
    agreed = torch.tensor(slowest)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return max(1, min(200, int(MEASURE_S / agreed.item())))


def measure(call: Callable[[], object], times: int) -> tuple[float, float, int]:
    """(seconds, CPU seconds, bytes sent) per call at this rank."""
    import torch.distributed as dist

    dist.barrier()
    sent, cpu, started = sent_bytes(), time.process_time(), time.perf_counter()
    for _ in range(times):
        call()
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    dist.barrier()
    moved = sent_bytes() - sent
    return seconds / times, cpu_s / times, moved // times


def row(n: int, name: str, kind: str, size: int, everybody: list[Any]) -> Row:
    """Medians over rounds."""
    rounds = len(everybody[0]["smol"])

    def median(key: str, field: int, over: Callable[[Any], float]) -> float:
        return statistics.median(over([ranks[key][i][field] for ranks in everybody]) for i in range(rounds))

    return Row(
        n,
        name,
        kind,
        size,
        rounds,
        median("smol", 0, max),
        median("gloo", 0, max),
        median("smol", 1, sum),
        median("gloo", 1, sum),
        median("smol", 2, max) / size,
        median("gloo", 2, max) / size,
    )


def run(n: int, cases: list[tuple[str, str, int]], rounds: int) -> list[Row]:
    """All cases at one group size."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=worker, args=(rank, n, folder, cases, rounds, results), daemon=True)
            for rank in range(n)
        ]
        for process in ranks:
            process.start()
        rows = []
        for case in cases:
            rows.append(next_row(results, ranks))
            print(f"  N={n} {case[0]} {case[1]} {case[2]}", file=sys.stderr)
        for process in ranks:
            process.join(60)
    return rows


def next_row(results: Any, ranks: list[Any]) -> Row:
    """The next row; RuntimeError at once if a rank died, which the others report on stderr."""
    for _ in range(600):
        try:
            row: Row = results.get(timeout=1)
        except queue.Empty:
            if any(process.exitcode for process in ranks):
                raise RuntimeError("a rank of the benchmark failed; its traceback is above") from None
        else:
            return row
    raise TimeoutError("a case of the benchmark took more than ten minutes")


def show(rows: list[Row]) -> None:
    """The table: ratios below 1 are in smol's favour."""
    table = Table(title="smol / gloo, medians")
    for title in (
        "N",
        "operation",
        "dtype",
        "buffer",
        "smol ms",
        "gloo ms",
        "wall",
        "smol CPU ms",
        "gloo CPU ms",
        "CPU",
    ):
        table.add_column(title, justify="left" if title in ("operation", "dtype") else "right")
    table.add_column("sent smol", justify="right")
    table.add_column("gloo", justify="right")
    for r in rows:
        size = (
            f"{r.bytes >> 20} MB"
            if r.bytes >= 1 << 20
            else f"{r.bytes >> 10} KB"
            if r.bytes >= 1024
            else f"{r.bytes} B"
        )
        wall, cpu = r.smol_s / r.gloo_s, r.smol_cpu_s / max(1e-9, r.gloo_cpu_s)
        table.add_row(
            str(r.ranks),
            r.operation,
            r.dtype,
            size,
            f"{r.smol_s * 1e3:.3f}",
            f"{r.gloo_s * 1e3:.3f}",
            f"[{'green' if wall <= 1 else 'red'}]{wall:.2f}[/]",
            f"{r.smol_cpu_s * 1e3:.3f}",
            f"{r.gloo_cpu_s * 1e3:.3f}",
            f"[{'green' if cpu <= 1 else 'red'}]{cpu:.2f}[/]",
            f"{r.smol_sent:.3f}" if r.bytes >= 1024 else "",
            f"{r.gloo_sent:.3f}" if r.bytes >= 1024 else "",
        )
    Console(width=140).print(table)


def main() -> int:
    """Parse flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, 5 rounds, N = 2 and 3")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--ranks", type=int, nargs="+", help="group sizes (default 2 3, full: 2 3 4)")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--sizes", type=int, nargs="+", help="buffer sizes in bytes")
    parser.add_argument("--rounds", type=int, help="rounds per case (default 5, full: 9)")
    flags = parser.parse_args()
    sizes = flags.sizes or (QUICK_SIZES if flags.quick else FULL_SIZES)
    rounds = flags.rounds or (5 if flags.quick else 9)
    cases = [(name, "float32", size) for name in flags.operations for size in sizes]
    if not flags.sizes:
        cases += [("all_reduce", kind, 16 << 20) for kind in ("float16", "bfloat16")]
    rows = [row for n in flags.ranks or ((2, 3) if flags.quick else (2, 3, 4)) for row in run(n, cases, rounds)]
    show(rows)
    if flags.out:
        import torch

        report = {
            "schema": 1,
            "command": " ".join(["python -m benchmarks.collectives", *sys.argv[1:]]),
            "torch": torch.__version__,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "rows": [asdict(row) for row in rows],
        }
        flags.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
