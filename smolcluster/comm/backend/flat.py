"""A tensor as what the wire carries: flat, contiguous numbers in CPU memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from smolcluster.comm.backend.staging import Staging, needs_staging


class Flat:
    """`numbers` shares the tensor's memory where that is contiguous and the CPU's; else it is a copy.

    `arrive` before they are read, `write_back` after they were written, both on the operation's thread. `fill`: False
    when the tensor's old numbers do not matter. ValueError: a device or layout that cannot travel.
    """

    __slots__ = ("_original", "_staging", "numbers")

    def __init__(self, tensor: Tensor, fill: bool = True) -> None:
        if tensor.is_sparse:
            raise ValueError("the backend smol carries dense tensors only")
        self._staging: Staging | None = None
        self._original: Tensor | None = None
        detached = tensor.detach()
        if needs_staging(detached):
            self._staging = Staging(detached, fill)
            detached = self._staging.buffer
        if not detached.is_contiguous():
            self._original, detached = detached, detached.contiguous()
        # Not view(-1): a single number may lie in a tensor of any stride and count as contiguous.
        self.numbers = detached.as_strided((detached.numel(),), (1,))

    def arrive(self) -> None:
        """Wait until the numbers are there."""
        if self._staging is not None:
            self._staging.arrive()

    def write_back(self) -> None:
        """Give the numbers back to a tensor that had to be copied."""
        if self._original is not None:
            self._original.copy_(self.numbers.view(self._original.shape))
        if self._staging is not None:
            self._staging.give_back()


def flats(tensors: Iterable[Tensor], fill: bool = True) -> list[Flat]:
    """Each tensor flat."""
    return [Flat(tensor, fill) for tensor in tensors]


def numbers_of(parts: Iterable[Flat]) -> list[Tensor]:
    """Their numbers."""
    return [part.numbers for part in parts]


def arrive(parts: Sequence[Flat]) -> None:
    """Wait for all of them."""
    for part in parts:
        part.arrive()


def write_back(parts: Sequence[Flat]) -> None:
    """Give all of them back."""
    for part in parts:
        part.write_back()


def cut(flat: Tensor, sizes: Sequence[int], parts: int) -> list[Tensor]:
    """`flat` in pieces of `sizes` numbers, or in `parts` even ones if no sizes are given. Views."""
    even = flat.numel() // parts
    pieces: list[Tensor] = []
    at = 0
    for size in sizes or [even] * parts:
        pieces.append(flat.narrow(0, at, size))
        at += size
    return pieces
