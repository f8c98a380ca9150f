"""SimpleNN: one hidden layer, for MNIST and for tests that want a model of another kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from smolcluster.spec.run import NNSpec


class SimpleNN(nn.Module):
    """input -> hidden, ReLU -> out."""

    def __init__(self, spec: NNSpec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.fc1 = nn.utils.skip_init(nn.Linear, spec.input_dim, spec.hidden)
        self.fc2 = nn.utils.skip_init(nn.Linear, spec.hidden, spec.out)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.fc1, self.fc2):
                bound = 1 / math.sqrt(layer.in_features)  # nn.Linear's own default, with a generator of ours
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) images or vectors of input_dim numbers -> (B, out) logits."""
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar; y (B,) int64."""
        return functional.cross_entropy(self(x), y)

    def graded(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and for how many of the samples the likeliest class is the right one; two scalars."""
        logits = self(x)
        return functional.cross_entropy(logits, y), (logits.argmax(1) == y).sum()
