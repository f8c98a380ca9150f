"""A tensor as what the wire carries: flat, contiguous numbers in CPU memory."""

from __future__ import annotations

from torch import Tensor


class Flat:
    """`numbers` shares the tensor's memory if that is contiguous; else it is a copy, and `write_back` returns it."""

    __slots__ = ("_original", "numbers")

    def __init__(self, tensor: Tensor) -> None:
        if tensor.device.type != "cpu":
            raise ValueError(
                f"the backend smol carries CPU tensors, not {tensor.device}: stage it through a CPU buffer"
            )
        if tensor.is_sparse:
            raise ValueError("the backend smol carries dense tensors only")
        self._original: Tensor | None = None
        detached = tensor.detach()
        if not detached.is_contiguous():
            self._original, detached = detached, detached.contiguous()
        # Not view(-1): a tensor of one number counts as contiguous whatever its stride, and keeps that stride.
        self.numbers = detached.as_strided((detached.numel(),), (1,))

    def write_back(self) -> None:
        """Give the numbers back to a tensor that had to be copied."""
        if self._original is not None:
            self._original.copy_(self.numbers.view(self._original.shape))


def flats(tensors: list[Tensor]) -> list[Flat]:
    """Each tensor flat."""
    return [Flat(tensor) for tensor in tensors]


def numbers_of(parts: list[Flat]) -> list[Tensor]:
    """Their numbers."""
    return [part.numbers for part in parts]


def write_back(parts: list[Flat]) -> None:
    """Give all of them back."""
    for part in parts:
        part.write_back()


def cut(flat: Tensor, sizes: list[int], parts: int) -> list[Tensor]:
    """`flat` in pieces of `sizes` numbers, or in `parts` even ones if no sizes are given. Views."""
    even = flat.numel() // parts
    pieces: list[Tensor] = []
    at = 0
    for size in sizes or [even] * parts:
        pieces.append(flat.narrow(0, at, size))
        at += size
    return pieces
