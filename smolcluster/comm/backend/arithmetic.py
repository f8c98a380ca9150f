"""What a reduction does to two blocks of numbers, and the codes by which dtypes travel in headers.

torch adds float16 and bfloat16 in float32 and rounds the sum once, so a fold rounds once per hop and never adds in the
narrow type; with many ranks widened.py keeps the partial sums in float32 altogether.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

# Position + 1 is the code on the wire; only ever append.
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
CODES = {dtype: code for code, dtype in enumerate(_DTYPES, 1)}
_COMPLEX = (torch.complex64, torch.complex128)
_FRACTIONAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16, *_COMPLEX)
# Sums of these are sums of something torch can add: pairs of reals; two's complement does not know of signs.
_ADDED_AS = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
_NOT_ORDERED = (*_COMPLEX, torch.uint16, torch.uint32, torch.uint64)

# out, own, incoming: out may be own.
Fold = Callable[[Tensor, Tensor, Tensor], None]


def dtype_name(code: int) -> str:
    """The dtype of a code in a header, for messages."""
    return str(_DTYPES[code - 1]).removeprefix("torch.") if 0 < code <= len(_DTYPES) else "bytes"


def _add(out: Tensor, own: Tensor, incoming: Tensor) -> None:
    torch.add(own, incoming, out=out)


def _multiply(out: Tensor, own: Tensor, incoming: Tensor) -> None:
    torch.mul(own, incoming, out=out)


def _minimum(out: Tensor, own: Tensor, incoming: Tensor) -> None:
    torch.minimum(own, incoming, out=out)


def _maximum(out: Tensor, own: Tensor, incoming: Tensor) -> None:
    torch.maximum(own, incoming, out=out)


def _band(out: Tensor, own: Tensor, incoming: Tensor) -> None:
    torch.bitwise_and(own, incoming, out=out)


def _bor(out: Tensor, own: Tensor, incoming: Tensor) -> None:
    torch.bitwise_or(own, incoming, out=out)


def _bxor(out: Tensor, own: Tensor, incoming: Tensor) -> None:
    torch.bitwise_xor(own, incoming, out=out)


_FOLDS: dict[str, Fold] = {
    "SUM": _add,
    "AVG": _add,
    "PRODUCT": _multiply,
    "MIN": _minimum,
    "MAX": _maximum,
    "BAND": _band,
    "BOR": _bor,
    "BXOR": _bxor,
}


def op_name(op: dist.ReduceOp | dist.ReduceOp.RedOpType) -> str:
    """SUM, AVG ... of c10d's operation object."""
    return str(getattr(op, "__getstate__", lambda: (op,))()[0] if isinstance(op, dist.ReduceOp) else op).split(".")[-1]


def addable(flat: Tensor, op: str) -> Tensor:
    """The same memory as numbers that torch adds, if the reduction is a sum."""
    other = _ADDED_AS.get(flat.dtype) if op in ("SUM", "AVG") else None
    if other is None or (op == "AVG" and not other.is_floating_point):
        return flat
    return flat.view(other)


def fold_of(name: str, dtype: torch.dtype) -> Fold:
    """The fold of a reduction. ValueError when this dtype has none: before anything is sent, the same on every rank."""
    fold = _FOLDS.get(name)
    if fold is None:
        raise ValueError(f"the backend smol has no reduction {name}; it has {', '.join(_FOLDS)}")
    if name == "AVG" and dtype not in _FRACTIONAL:
        raise ValueError(f"the average of {dtype} numbers is no {dtype}: use SUM, or a floating-point tensor")
    if dtype not in CODES:
        raise ValueError(f"the backend smol cannot reduce {dtype}")
    if (name in ("MIN", "MAX") and dtype in _NOT_ORDERED) or (name in ("BAND", "BOR", "BXOR") and dtype in _FRACTIONAL):
        raise ValueError(f"{name} has no meaning for {dtype}, or torch cannot compute it")
    return fold
