"""What TLS costs: the same operations of `smol` in the clear and in TLS 1.3, by turns.

    python -m benchmarks.encryption --quick --out encryption.json

Two ranks on loopback, as `encrypt: never` and `encrypt: always` would have them. Loopback is faster than any home wire
and both ends share this machine's cores, so a ratio here is what encryption can cost at most; a wire slower than the
Mbit/s that are shown in TLS is as fast with it as without, for a little CPU. A ratio is the median of the rounds' own
ratios.
"""

from __future__ import annotations

import ssl
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.ranks import Team
from benchmarks.targets import conclude, flags_for
from smolcluster.certs.authority import Authority
from smolcluster.certs.node import install, make_request
from smolcluster.certs.places import AuthorityFolder, NodeFolder

RANKS = 2
KB, MB = 1 << 10, 1 << 20
SIZES = (4 * KB, 1 * MB, 64 * MB)
# One turn takes about this long.
MEASURE_S = 0.2
WAYS = ("clear", "tls")


@dataclass(frozen=True)
class Row:
    """One operation and size: seconds of one, medians, and the ratio of TLS to the clear, of wall and of CPU time."""

    operation: str
    bytes: int
    clear_s: float
    tls_s: float
    wall: float
    cpu: float

    def mbps(self, seconds: float) -> float:
        """Megabits a second that a rank sends."""
        return self.bytes * 8 / seconds / 1e6


def certificates_in(folder: Path) -> Path:
    """An authority and a certificate for each rank, as certificates.yml makes them."""
    authority = Authority.create(AuthorityFolder(folder / "ca"))
    for rank in range(RANKS):
        mine = NodeFolder(folder / str(rank))
        install(mine, str(rank), authority.sign(make_request(mine, str(rank))[0], str(rank))[0])
    return folder


def prepare(rank: int, _: int, __: Any) -> dict[str, Callable[[], Any]]:
    """A rank's tasks: each gives the seconds of one operation."""
    tasks: dict[str, Callable[[], Any]] = {}
    for size in SIZES:
        tensor = torch.zeros(size // 4)
        for name, call in (("all_reduce", _all_reduce), ("there and back", _there_and_back)):
            tasks[f"{name} {size}"] = partial(_repeat, partial(call, tensor, rank))
    return tasks


def _all_reduce(tensor: torch.Tensor, _: int) -> None:
    """With two ranks each sends as many bytes as the tensor has, and receives as many at the same time."""
    import torch.distributed as dist

    dist.all_reduce(tensor)


def _there_and_back(tensor: torch.Tensor, rank: int) -> None:
    """One after the other: nothing hides behind anything."""
    import torch.distributed as dist

    if rank == 0:
        dist.send(tensor, 1)
        dist.recv(tensor, 1)
    else:
        dist.recv(tensor, 0)
        dist.send(tensor, 0)


def _repeat(call: Callable[[], None]) -> int:
    """As often as fits into a turn, which both ranks find out together. How often."""
    import torch.distributed as dist

    started = time.perf_counter()
    call()
    slowest = torch.tensor(time.perf_counter() - started)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    times = max(1, min(500, int(MEASURE_S / max(slowest.item(), 1e-6))))
    for _ in range(times):
        call()
    return times + 1


def race(rounds: int) -> list[Row]:
    """Both ways take turns, and each round begins with the other one."""
    with ExitStack() as stack:
        folder = certificates_in(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        teams = {
            way: stack.enter_context(
                Team(RANKS, "smol", prepare, keep_memory=True, certificates=folder if way == "tls" else None)
            )
            for way in WAYS
        }
        rows = []
        for size in SIZES:
            for name in ("all_reduce", "there and back"):
                took: dict[str, list[float]] = {way: [] for way in WAYS}
                cpu: dict[str, list[float]] = {way: [] for way in WAYS}
                for number in range(rounds + 1):
                    for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                        done = teams[way].do(f"{name} {size}")
                        if number:  # the first is to warm up
                            took[way].append(max(each.wall_s for each in done) / done[0].value)
                            cpu[way].append(sum(each.cpu_s for each in done) / done[0].value)
                wall, burnt = (
                    statistics.median(tls / clear for tls, clear in zip(both["tls"], both["clear"], strict=True))
                    for both in (took, cpu)
                )
                medians = [statistics.median(took[way]) for way in WAYS]
                rows.append(Row(name, size, *medians, wall, burnt))
        return rows


def show(console: Console, rows: list[Row]) -> None:
    """Print what was measured."""
    table = Table(title=f"{RANKS} ranks on loopback; medians; ratios: TLS 1.3 to the clear ({ssl.OPENSSL_VERSION})")
    for column in ("", "bytes", "clear", "TLS", "time", "CPU"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        # There and back is two ways, one after the other.
        ways = 2 if row.operation == "there and back" else 1
        cells = [f"{t * 1e6:,.0f} us, {ways * row.mbps(t):,.0f} Mbit/s" for t in (row.clear_s, row.tls_s)]
        table.add_row(row.operation, f"{row.bytes:,}", *cells, f"{row.wall:.2f}x", f"{row.cpu:.2f}x")
    console.print(table)


def main() -> int:
    chosen = flags_for("encryption", __doc__, "7 rounds", "21 rounds").parse_args()
    rows = race(21 if chosen.full else 7)
    show(Console(width=140), rows)
    return conclude(chosen.out, {"openssl": ssl.OPENSSL_VERSION, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    raise SystemExit(main())
