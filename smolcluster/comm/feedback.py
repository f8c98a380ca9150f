"""Error feedback: what a lossy frame did not hold is added to the next one (Seide et al. 2014; arXiv:1901.09847).

So nothing is lost, only late: the sum of all that was decoded plus the residual is the sum of all that was given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smolcluster.comm.codec import Codec


class ErrorFeedback:
    """One sender of `residual.numel()` numbers at a time, always the same ones.

    The residual changes in `seal` and nowhere else: a frame that is sent again is the same bytes. `residual` (float32,
    1-D) and `frame` (uint8) may be views into memory of the caller's; the frame must not be written to between seals.
    """

    def __init__(self, codec: Codec, residual: Tensor, frame: Tensor | None = None) -> None:
        length = codec.frame_bytes(residual.numel())
        self.residual = residual
        self.frame = torch.empty(length, dtype=torch.uint8, device=residual.device) if frame is None else frame
        if self.frame.numel() != length:
            raise ValueError(f"{residual.numel()} numbers need a frame of {length} bytes, not of {self.frame.numel()}")
        self._codec = codec

    def seal(self, values: Tensor) -> Tensor:
        """The frame of values + residual, which is committed: the residual is now what that frame does not hold."""
        self._codec.seal(values, self.residual, self.frame)
        return self.frame

    def forget(self) -> None:
        """Drop what was not sent: it belongs to numbers that nobody wants any more."""
        self.residual.zero_()
