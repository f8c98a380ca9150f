"""`python -m benchmarks --quick`: every benchmark in turn, one JSON each in benchmarks/results/.

Each benchmark is a module with the same flags (`--quick` or `--full`, `--out FILE`) and can be run alone. The exit code
is not 0 when one could not be run or misses a target it states.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "startup",
    "loss",
    "codec",
    "collectives",
    "training",
    "pipeline",
    "fsdp2",
    "overlap",
    "links",
    "formats",
    "encryption",
    "data",
    "checkpoints",
    "unequal",
    "predictions",
    "staleness",
    "serving",
    "tablet",
    "page",
    "watching",
)
RESULTS = Path(__file__).parent / "results"
LIMIT_S = 3600


def main() -> int:
    """Run all benchmarks, or those named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="size", const="--quick", help="a few minutes (the default)")
    size.add_argument("--full", action="store_const", dest="size", const="--full", help="more sizes and repetitions")
    parser.set_defaults(size="--quick")
    parser.add_argument("only", nargs="*", choices=[*BENCHMARKS, []], help="run only these")
    chosen = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    # One thread per process: with several ranks on one machine anything else measures the scheduler.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    missed = []
    for name in chosen.only or BENCHMARKS:
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", chosen.size, "--out", str(RESULTS / f"{name}.json")]
        if subprocess.run(command, env=environment, timeout=LIMIT_S, check=False).returncode:
            missed.append(name)
    if missed:
        print(f"\nNot every target was reached: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
