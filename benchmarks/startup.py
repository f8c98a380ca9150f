"""How long the torch-free parts take to import, in fresh processes, interleaved with an empty interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from rich.console import Console

from benchmarks.targets import Target, conclude, flags_for, show_targets

LIMIT_S = 1.0
STATEMENTS = {
    "empty interpreter": "pass",
    "smolcluster.spec": "import smolcluster.spec.resolve, sys; assert 'torch' not in sys.modules",
    "smolcluster.plan": "import smolcluster.plan.make, sys; assert 'torch' not in sys.modules",
    "a poll": "import smolcluster.cli, smolcluster.commands.job, sys; assert 'torch' not in sys.modules",
}


def measure(repeats: int) -> dict[str, float]:
    """Median seconds for each statement in a process of its own."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(repeats):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True, timeout=60)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    chosen = flags_for("startup", __doc__, "5 starts of each", "15 starts of each").parse_args()
    medians = measure(repeats=15 if chosen.full else 5)
    for name, seconds in medians.items():
        print(f"{name:<20} {seconds * 1000:7.0f} ms")
    target = Target.at_most("the slowest, without torch, seconds", medians.values(), LIMIT_S)
    show_targets(Console(), [target])
    return conclude(chosen.out, {"median_s": medians}, [target])


if __name__ == "__main__":
    raise SystemExit(main())
