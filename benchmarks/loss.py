"""The chunked cross-entropy beside the plain one: CPU milliseconds of forward and backward, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.targets import conclude, flags_for
from smolcluster.models.loss import chunked_cross_entropy, plain_cross_entropy

WIDTH = 256
SHAPES = ((512, 50257), (1024, 2048))


def cpu_ms(loss: Callable[[Tensor, Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor, targets: Tensor) -> float:
    """Milliseconds of CPU for one forward and backward."""
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    began = time.process_time()
    loss(*leaves, targets).backward()  # type: ignore[no-untyped-call]
    return (time.process_time() - began) * 1000


def main() -> int:
    chosen = flags_for("loss", __doc__, "7 rounds", "15 rounds").parse_args()
    torch.set_num_threads(1)
    rows = []
    print("  rows  vocabulary   plain ms  chunked ms  ratio")
    for count, vocabulary in SHAPES:
        made = torch.Generator().manual_seed(0)
        hidden = torch.randn(count, WIDTH, generator=made)
        weight = torch.randn(vocabulary, WIDTH, generator=made) * 0.02
        targets = torch.randint(0, vocabulary, (count,), generator=made)
        times: dict[str, list[float]] = {"plain": [], "chunked": []}
        for _ in range(15 if chosen.full else 7):
            times["plain"].append(cpu_ms(plain_cross_entropy, hidden, weight, targets))
            times["chunked"].append(cpu_ms(chunked_cross_entropy, hidden, weight, targets))
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratio = medians["chunked"] / medians["plain"]
        print(f"{count:6d} {vocabulary:11d} {medians['plain']:10.0f} {medians['chunked']:11.0f} {ratio:6.2f}")
        rows.append({"rows": count, "vocabulary": vocabulary, **medians, "ratio": ratio})
    return conclude(chosen.out, {"cpu_ms": rows})


if __name__ == "__main__":
    raise SystemExit(main())
