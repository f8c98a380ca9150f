"""The scale of the loss under float16, so that small gradients do not vanish (Micikevicius et al., arXiv:1710.03740).

float16 ends at 6e-8. So the loss is multiplied by a large number before backward, and the summed gradients are divided
by it when AdamW reads them. Where one is not finite on any rank the scale was too large: the step is left out and the
scale halved, on every rank, since all see the same rows of the step's exchange (base.judge). After GROWTH_EVERY good
steps it is doubled again. The numbers are torch.amp.GradScaler's.
"""

from __future__ import annotations

import torch

FIRST, SMALLEST, LARGEST = 2.0**16, 1.0, 2.0**24
GROWTH_EVERY = 2000


def next_scale(scale: float, good_steps: int, skipped: bool) -> tuple[float, int]:
    """The scale of the next step and how many good ones it has seen in a row. Pure: the same on every rank."""
    if skipped:
        return max(SMALLEST, scale / 2), 0
    if good_steps + 1 >= GROWTH_EVERY:
        return min(LARGEST, scale * 2), 0
    return scale, good_steps + 1


def power_of_two(count: int) -> int:
    """The next one: what is multiplied or divided by it loses no bit."""
    return 1 << max(0, count - 1).bit_length()


class LossScale:
    """The scale of a run. `used`: whether it has one; without, it is 1, and what a float16 run left stays as it is.

    It is meant for the mean over the `tokens` of a whole step, as GradScaler's is. Our losses are sums over tokens, so
    these are multiplied by `factor`: the scale over `tokens`, which stand for the next power of two. It costs no bit.
    """

    def __init__(self, used: bool, tokens: int = 1) -> None:
        self.used = used
        self._tokens = power_of_two(tokens) if used else 1
        self._scale = torch.tensor(FIRST)
        self._good_steps = torch.zeros(())

    @property
    def value(self) -> float:
        """What the mean loss is multiplied by, a power of two."""
        return float(self._scale) if self.used else 1.0

    @property
    def factor(self) -> float:
        """What a loss summed over tokens is multiplied by."""
        return self.value / self._tokens

    @property
    def skippable(self) -> bool:
        """Whether a step whose numbers are not finite may be left out, and a smaller scale be tried."""
        return self.used and self.value > SMALLEST

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss as backward gets it."""
        return loss * self.factor if self.used else loss

    def take(self, skipped: bool) -> None:
        """Go on to the next step's scale."""
        if self.used:
            scale, good_steps = next_scale(self.value, int(self._good_steps), skipped)
            self._scale.fill_(scale)
            self._good_steps.fill_(good_steps)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps, by name, live. In every precision, so that one may go on in another."""
        return {"optim.loss_scale": self._scale, "optim.loss_scale_good_steps": self._good_steps}
