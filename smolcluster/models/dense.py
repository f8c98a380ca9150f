"""y = x @ weight.T + bias for serving, at one of three precisions.

fp32, bf16    the weight as it is
int8          weights rounded per output channel, activations per row while they pass ("dynamic")

PyTorch's dynamic int8 layer rounds all rows of a batch with one scale, so that a session's numbers would depend on who
else is being served. Here every row is brought to the range -1..1 first, and a row that spans the whole range goes
along: the scale is then always the same, sums are whole numbers, and each row gives the same bits in any company.
"""

from __future__ import annotations

import functools
import platform
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Precision = Literal["fp32", "bf16", "int8"]
ACTIVATIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
_SMALLEST = 1e-12
# So many rows at most are multiplied the other way round, if that takes less than this part of the time.
_FEW, _WORTH = 5, 0.9
# What is tried: a matrix that no core's own cache holds, so often each way. The best counts, as a machine may be busy.
_TRIED, _TRIES = (3072, 1024), 7


class Dense(Protocol):
    """A linear layer."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        ...


def dense(weight: Tensor, bias: Tensor | None, precision: Precision) -> Dense:
    """The layer with `weight` (out, in) and `bias` (out,), any float type, at that precision."""
    if precision == "int8":
        return Int8(weight.float(), None if bias is None else bias.float())
    kind = ACTIVATIONS[precision]
    return Full(weight.to(kind).contiguous(), None if bias is None else bias.to(kind))


class Full:
    """Weights in the type that is computed in.

    Some processors' MKL multiplies a few rows with a tall fp32 matrix faster when asked for the transposed product, by
    1.2 to 2.5 times, and one row faster as two; others' takes twice as long then (ARCHITECTURE.md has the figures). So
    it is tried, once in a process. Other matrices are asked for plainly.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias
        tall = weight.shape[0] >= weight.shape[1]
        self._turned = rows_turned() if tall and weight.dtype is torch.float32 else frozenset()

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        if len(x) not in self._turned:
            return functional.linear(x, self.weight, self.bias)
        out = _turned(x, self.weight)
        return out if self.bias is None else out.add_(self.bias)


def _turned(x: Tensor, weight: Tensor) -> Tensor:
    rows = x if len(x) > 1 else x.repeat(2, 1)
    return torch.mm(weight, rows.t()).t()[: len(x)].contiguous()


@functools.cache
def rows_turned() -> frozenset[int]:
    """How many rows at once this machine multiplies faster the other way round. Tried, some 0.1 s."""
    if not torch.backends.mkl.is_available():
        return frozenset()
    weight = torch.ones(_TRIED)
    few = {rows: torch.ones(rows, _TRIED[1]) for rows in range(1, _FEW + 1)}
    return frozenset(
        rows
        for rows, x in few.items()
        if _pays(functools.partial(functional.linear, x, weight), functools.partial(_turned, x, weight))
    )


def _pays(plain: Callable[[], Tensor], turned: Callable[[], Tensor]) -> bool:
    took = {plain: float("inf"), turned: float("inf")}
    for _ in range(_TRIES):
        for way in took:
            began = time.perf_counter()
            way()
            took[way] = min(took[way], time.perf_counter() - began)
    return took[turned] < _WORTH * took[plain]


class Int8:
    """A quarter of the memory of fp32, which is what a token's speed hangs on."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scale = weight.abs().amax(1).clamp_min(_SMALLEST).double() / 127
        zero = torch.zeros(weight.shape[0], dtype=torch.int64)
        with warnings.catch_warnings():
            # PyTorch means to move them to another package; the versions we allow have them, and none as fast.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
            rounded = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        self._packed: Any = torch.ops.quantized.linear_prepack(rounded, None)
        self._bias = bias
        self._span = torch.zeros(1, weight.shape[1])
        self._span[0, 0] = 1.0
        self._span[0, -1] = -1.0
        self._reduce = _sums_may_overflow()

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        largest = x.abs().amax(1, keepdim=True).clamp_min_(_SMALLEST)
        rows = torch.cat((x / largest, self._span))
        out: Tensor = torch.ops.quantized.linear_dynamic(rows, self._packed, self._reduce)[:-1]
        out = out * largest
        return out if self._bias is None else out.add_(self._bias)


def _sums_may_overflow() -> bool:
    """x86 without VNNI adds pairs of products in 16 bits: one bit of the activations has to be given up for that."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    return not torch.cpu._is_vnni_supported()
