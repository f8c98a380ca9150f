"""What a rank tells of its training: filled as the loop goes, and taken up again by a run that is resumed."""

from __future__ import annotations

from dataclasses import dataclass


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
    resumed_from: str = ""
    resumed_step: int | None = None
