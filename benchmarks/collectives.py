"""smol against gloo, operation by operation, in the same processes, interleaved.

    python -m benchmarks.collectives --quick --out collectives.json

For every group size, operation and size: medians over rounds of wall time per operation (the slowest rank) and CPU
seconds (summed over ranks), and the bytes all ranks sent beside the fewest possible. In a round both backends run one
after the other, and the next round begins with the other one, so that a busy machine is unfair to both alike. A ratio
is the median of the rounds' own ratios.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.operations import OPTIMUM, Arena, Case, call_of
from benchmarks.ranks import Done, Team
from benchmarks.targets import Target, conclude, flags_for, show_targets

KB, MB = 1 << 10, 1 << 20
QUICK_SIZES = (4 * KB, 1 * MB, 8 * MB, 64 * MB)
FULL_SIZES = (4 * KB, 64 * KB, 256 * KB, 1 * MB, 4 * MB, 8 * MB, 16 * MB, 64 * MB, 120 * MB)
BACKENDS = ("smol", "gloo")
# One measurement takes about this long: long enough for the clock, short enough to interleave.
MEASURE_S = 0.1
# Below this the headers of 32 bytes count.
BYTES_COUNT_FROM = 1 * MB


@dataclass(frozen=True)
class Row:
    """One case. Seconds per operation, medians; `wall`, `cpu`: smol's over gloo's. Bytes: of all ranks."""

    ranks: int
    operation: str
    dtype: str
    bytes: int
    rounds: int
    smol_s: float
    gloo_s: float
    wall: float
    smol_cpu_s: float
    gloo_cpu_s: float
    cpu: float
    smol_sent: float
    gloo_sent: float
    optimum: float


def cases_of(operations: Iterable[str], sizes: Iterable[int], n: int) -> list[Case]:
    """What is measured: float32 everywhere, all_reduce in the narrow types too. Sizes are rounded to divide by n."""
    cases = []
    for size in sizes:
        even = size // (8 * n) * 8 * n
        for name in operations:
            if name != "barrier":
                cases.append(Case(name, "float32", even))
            elif size == min(sizes):
                cases.append(Case(name, "float32", 8 * n))
        if "all_reduce" in operations:
            cases += [Case("all_reduce", kind, even) for kind in ("float16", "bfloat16")]
    return cases


def sent_bytes() -> int:
    """Bytes this process's TCP connections have had acknowledged, gloo's too. Linux only, else 0."""
    from smolcluster.comm.stats import tcp_counters

    counted = tcp_counters(["127.0.0.1"])
    return counted[0] if counted is not None else 0


def prepare(rank: int, n: int, _: Any, cases: list[Case]) -> dict[str, Callable[[], Any]]:
    """The tasks of one rank: every case over both backends. Each gives (repetitions, bytes sent)."""
    import torch.distributed as dist

    sys.setswitchinterval(0.0005)  # as the worker sets it
    groups = {"smol": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
    arena = Arena(max(case.bytes for case in cases))
    tasks: dict[str, Callable[[], Any]] = {}
    for index, case in enumerate(cases):
        calls = {backend: call_of(case, arena, rank, n, group) for backend, group in groups.items()}
        times = repetitions(calls.values())
        for backend, call in calls.items():
            tasks[f"{index} {backend}"] = partial(repeat, call, times)
    return tasks


def repetitions(calls: Iterable[Callable[[], object]]) -> int:
    """How often to repeat a call for one measurement: agreed by all ranks."""
    import torch
    import torch.distributed as dist

    slowest = 0.0
    for call in calls:
        call()
        started = time.perf_counter()
        call()
        slowest = max(slowest, time.perf_counter() - started)
    agreed = torch.tensor(slowest)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return max(1, min(200, int(MEASURE_S / agreed.item())))


def repeat(call: Callable[[], object], times: int) -> tuple[int, int]:
    """Do it `times` times; what was sent is counted after the last byte was acknowledged."""
    import torch.distributed as dist

    sent = sent_bytes()
    for _ in range(times):
        call()
    dist.barrier()
    return times, sent_bytes() - sent


def run(n: int, cases: list[Case], rounds: int) -> list[Row]:
    """All cases at one group size."""
    with Team(n, "smol", partial(prepare, cases=cases), keep_memory=False) as team:
        rows = []
        for index, case in enumerate(cases):
            measured: dict[str, list[list[Done]]] = {backend: [] for backend in BACKENDS}
            for number in range(rounds):
                for backend in BACKENDS if number % 2 == 0 else BACKENDS[::-1]:
                    measured[backend].append(team.do(f"{index} {backend}"))
            rows.append(row_of(n, case, measured))
            print(f"  N={n} {case.operation} {case.dtype} {case.bytes}", file=sys.stderr, flush=True)
    return rows


def row_of(n: int, case: Case, measured: dict[str, list[list[Done]]]) -> Row:
    """Medians over rounds."""

    def wall(ranks: list[Done]) -> float:
        return max(done.wall_s / done.value[0] for done in ranks)

    def cpu(ranks: list[Done]) -> float:
        return sum(done.cpu_s / done.value[0] for done in ranks)

    def sent(ranks: list[Done]) -> float:
        return sum(done.value[1] / done.value[0] for done in ranks)

    def median(backend: str, figure: Callable[[list[Done]], float]) -> float:
        return statistics.median(figure(ranks) for ranks in measured[backend])

    def ratio(figure: Callable[[list[Done]], float]) -> float:
        pairs = zip(measured["smol"], measured["gloo"], strict=True)
        return statistics.median(figure(smol) / max(1e-9, figure(gloo)) for smol, gloo in pairs)

    return Row(
        n, case.operation, case.dtype, case.bytes, len(measured["smol"]),
        median("smol", wall), median("gloo", wall), ratio(wall),
        median("smol", cpu), median("gloo", cpu), ratio(cpu),
        median("smol", sent), median("gloo", sent), case.optimum(n),
    )  # fmt: skip


def judge(rows: list[Row]) -> list[Target]:
    """What the backend has to reach, at N = 2 and 3."""
    asked = [row for row in rows if row.ranks in (2, 3)]
    large = [row for row in asked if row.bytes > 4 * MB]
    small = [row for row in asked if row.bytes <= 1 * MB]
    # Only Linux tells what gloo's sockets and ours have sent.
    counted = [row for row in asked if row.bytes >= BYTES_COUNT_FROM // 2 and row.smol_sent]
    scatter = [row.wall for row in large if row.operation == "reduce_scatter"]
    halves = [row.wall for row in large if (row.operation, row.dtype) == ("all_reduce", "float16")]
    return [
        Target.at_most("reduce_scatter, 8 and 64 MB: the slowest against gloo", scatter, 0.6),
        Target.at_most("all_reduce of float16, 8 and 64 MB: the slowest against gloo", halves, 0.6),
        Target.at_most("any operation, 8 and 64 MB: the slowest against gloo", [row.wall for row in large], 1.35),
        Target.at_most("any operation, 4 KB and 1 MB: the slowest against gloo", [row.wall for row in small], 2.0),
        Target.at_most(
            "bytes sent, farthest from the optimum",
            [abs(row.smol_sent / row.optimum - 1) for row in counted],
            0.01,
        ),
    ]


def size_text(size: int) -> str:
    """The nominal size: cases are rounded to divide by the ranks."""
    if size >= MB // 2:
        return f"{round(size / MB)} MB"
    return f"{round(size / KB)} KB" if size >= KB else f"{size} B"


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
    table.add_column("sent/optimum", justify="right")
    table.add_column("gloo's", justify="right")
    for r in rows:
        counts = r.bytes >= KB and r.optimum > 0
        table.add_row(
            str(r.ranks), r.operation, r.dtype, size_text(r.bytes), f"{r.smol_s * 1e3:.3f}", f"{r.gloo_s * 1e3:.3f}",
            f"[{'green' if r.wall <= 1 else 'red'}]{r.wall:.2f}[/]",
            f"{r.smol_cpu_s * 1e3:.3f}", f"{r.gloo_cpu_s * 1e3:.3f}",
            f"[{'green' if r.cpu <= 1 else 'red'}]{r.cpu:.2f}[/]",
            f"{r.smol_sent / r.optimum:.3f}" if counts else "", f"{r.gloo_sent / r.optimum:.3f}" if counts else "",
        )  # fmt: skip
    Console(width=140).print(table)


def main() -> int:
    """Parse flags, measure, print, write."""
    parser = flags_for(
        "collectives", __doc__, "four sizes, 7 rounds, N = 2 and 3", "nine sizes, 11 rounds, N = 2, 3 and 4"
    )
    parser.add_argument("--ranks", type=int, nargs="+", help="group sizes")
    parser.add_argument("--operations", nargs="+", choices=list(OPTIMUM), default=list(OPTIMUM))
    parser.add_argument("--sizes", type=int, nargs="+", help="buffer sizes in bytes")
    parser.add_argument("--rounds", type=int, help="rounds per case")
    flags = parser.parse_args()
    sizes = flags.sizes or (FULL_SIZES if flags.full else QUICK_SIZES)
    rounds = flags.rounds or (11 if flags.full else 7)
    worlds = flags.ranks or ((2, 3, 4) if flags.full else (2, 3))
    rows = [row for n in worlds for row in run(n, cases_of(flags.operations, sizes, n), rounds)]
    show(rows)
    targets = judge(rows)
    show_targets(Console(width=140), targets)
    figures = {
        "command": " ".join(["python -m benchmarks.collectives", *sys.argv[1:]]),
        "torch": version("torch"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rows": [asdict(row) for row in rows],
    }
    return conclude(flags.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
