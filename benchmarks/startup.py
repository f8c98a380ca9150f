"""How long the torch-free parts take to import, in fresh processes, interleaved with an empty interpreter."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 1.0
STATEMENTS = {
    "empty interpreter": "pass",
    "smolcluster.spec": "import smolcluster.spec, sys; assert 'torch' not in sys.modules",
    "smolcluster.plan": "import smolcluster.plan, sys; assert 'torch' not in sys.modules",
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    medians = measure(repeats=15 if chosen.full else 5)
    for name, seconds in medians.items():
        print(f"{name:<20} {seconds * 1000:7.0f} ms")
    reached = all(seconds < LIMIT_S for seconds in medians.values())
    print(f"under {LIMIT_S:g} s, without torch: {'yes' if reached else 'NO'}")
    if chosen.out:
        chosen.out.write_text(json.dumps({"schema": 1, "median_s": medians, "reached": reached}, indent=2) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
