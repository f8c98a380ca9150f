"""One half of SimpleNN, to be trained where the other lies on another rank: fc1 with its ReLU, or fc2."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from smolcluster.models.nn import SimpleNN
from smolcluster.models.partition import LayerRange
from smolcluster.spec.run import NNSpec


class NNStage(nn.Module):
    """Layers `layers` of SimpleNN(spec, seed), with its names and first values. Nothing is tied."""

    tied = None

    def __init__(self, spec: NNSpec, layers: LayerRange, seed: int = 0) -> None:
        super().__init__()
        self.spec, self.layers = spec, layers
        whole = SimpleNN(spec, seed)  # its layers draw from one generator, one after the other
        if layers.first:
            self.fc1 = whole.fc1
        if layers.last:
            self.fc2 = whole.fc2

    def hidden_shape(self, samples: int) -> tuple[int, ...]:
        """What travels between the two for so many samples: (B, hidden)."""
        return samples, self.spec.hidden

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) of input_dim numbers in the first stage, else (B, hidden) -> (B, hidden), in the last (B, out)."""
        if self.layers.first:
            x = functional.relu(self.fc1(x.flatten(1)))
        return self.fc2(x) if self.layers.last else x

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the last stage: the mean cross-entropy, a scalar; y (B,) int64."""
        return functional.cross_entropy(self(x), y)

    def graded(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and for how many of the samples the likeliest class is the right one; two scalars."""
        logits = self(x)
        return functional.cross_entropy(logits, y), (logits.argmax(1) == y).sum()
