"""AdamW (Loshchilov and Hutter, arXiv:1711.05101) over pieces of flat buffers.

torch's fused kernel does a piece in one pass over memory and also applies the gradients' scale (mean over tokens and
clipping at once). Every trained parameter decays, as in torch.optim.AdamW(model.parameters()).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.adamw import adamw

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class FlatAdamW:
    """The optimizer state of some pieces: `exp_avg[i]` and `exp_avg_sq[i]` belong to `params[i]`, `steps[i]` counts."""

    def __init__(self, params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor], weight_decay: float) -> None:
        self._params = list(params)
        self._grads = list(grads)
        self._weight_decay = weight_decay
        self.exp_avg = [torch.zeros_like(p) for p in params]
        self.exp_avg_sq = [torch.zeros_like(p) for p in params]
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in params]

    def step(self, piece: int, lr: float, scale: float) -> None:
        """One update of a piece with its gradients times `scale`. The gradients are scratch afterwards."""
        params = self._params[piece]
        adamw(
            [params],
            [self._grads[piece]],
            [self.exp_avg[piece]],
            [self.exp_avg_sq[piece]],
            [],
            [self.steps[piece]],
            fused=True,
            grad_scale=torch.tensor(1.0 / scale, dtype=torch.float32, device=params.device),  # the kernel divides by it
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=lr,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )
