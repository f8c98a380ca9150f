"""What a rank tells of its training: filled as the loop goes, and taken up again by a run that is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# What a run tells of its learning, by the names that an account, a checkpoint and a result have in common.
SCORES = ("loss_first", "loss_last", "val_loss_first", "val_loss", "val_accuracy")


@dataclass
class Account:
    """What a rank did: of the cluster the losses, of itself the tokens. Filled as the loop goes, always right."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_first: float | None = None
    loss_last: float | None = None
    val_loss_first: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    stopped: bool = False
    # The checkpoint that this start began with: of an earlier run, or after a restart of the run itself.
    resumed_from: str = ""
    resumed_step: int | None = None

    def scores(self) -> dict[str, float | None]:
        """SCORES and what they are now."""
        return {name: getattr(self, name) for name in SCORES}

    def take_scores(self, said: Mapping[str, float | None]) -> None:
        """Go on with those of an earlier account."""
        for name in SCORES:
            setattr(self, name, said[name])
