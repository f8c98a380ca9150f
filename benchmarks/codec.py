"""How fast one core turns gradients into frames and back, by wire format, and how many bytes a frame is.

    python -m benchmarks.codec --quick --out codec.json

One thread, CPU seconds, the best of several passes over a buffer that no cache holds; GB/s are of float32 numbers. What
sealing does besides encoding is error feedback; what adding does besides decoding is the sum.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.targets import Target, show_targets
from smolcluster.comm.codec import codec_of
from smolcluster.comm.feedback import ErrorFeedback
from smolcluster.spec.run import WireFormat

FORMATS: tuple[WireFormat, ...] = ("bf16", "fp16", "int8")
LEAST_GB_S = 1.5
MOST_BYTES = 0.27


def best_gb_s(work: Callable[[], object], size_bytes: int, passes: int) -> float:
    """Of CPU seconds: what else the machine does is not counted."""
    work()
    times = []
    for _ in range(passes):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return size_bytes / min(times) / 1e9


def measure(wire: WireFormat, count: int, passes: int) -> dict[str, float]:
    """GB/s of each operation of a format, and the bytes of its frame over those of float32."""
    codec = codec_of(wire)
    values = torch.randn(count, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(count)
    frame = torch.zeros(codec.frame_bytes(count), dtype=torch.uint8)
    feedback = ErrorFeedback(codec, torch.zeros(count), frame)
    work: dict[str, Callable[[], object]] = {
        "encode": lambda: codec.encode(values, frame),
        "seal": lambda: feedback.seal(values),
        "decode": lambda: codec.decode(frame, out),
        "add": lambda: codec.add(frame, out),
    }
    speeds = {name: best_gb_s(call, values.nbytes, passes) for name, call in work.items()}
    return {**speeds, "bytes": frame.nbytes / values.nbytes}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="64 MB, 7 passes (the default)")
    size.add_argument("--full", action="store_true", help="256 MB, 21 passes")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count, passes = (64 << 20, 21) if options.full else (16 << 20, 7)
    figures = {wire: measure(wire, count, passes) for wire in FORMATS}
    console = Console()
    table = Table("format", "encode GB/s", "seal GB/s", "decode GB/s", "add GB/s", "bytes of fp32")
    for wire, figure in figures.items():
        speeds = [f"{figure[name]:.2f}" for name in ("encode", "seal", "decode", "add")]
        table.add_row(wire, *speeds, f"{figure['bytes']:.3f}")
    console.print(table)
    int8 = figures["int8"]
    targets = [
        Target.at_least("int8 out: GB/s a core, with error feedback", [int8["encode"], int8["seal"]], LEAST_GB_S),
        Target.at_least("int8 in: GB/s a core, with the sum", [int8["decode"], int8["add"]], LEAST_GB_S),
        Target.at_most("int8: bytes of a frame over those of float32", [int8["bytes"]], MOST_BYTES),
    ]
    show_targets(console, targets)
    if options.out:
        told = {"schema": 1, "numbers": count, "formats": figures, "targets": [asdict(target) for target in targets]}
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if all(target.passed for target in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
