"""What a validation came to, in a person's words."""

from __future__ import annotations

import math

# exp() of more is no number that tells anybody anything.
MOST_NATS = 700.0


def perplexity(loss: float) -> float:
    """exp of a loss in nats per token: among how many equally likely tokens the model would be as unsure."""
    return math.exp(min(loss, MOST_NATS))


def validation_text(loss: float | None, accuracy: float | None) -> str:
    """`val 5.0966  perplexity 163.5`, or of a model that tells classes `val 0.0912  accuracy 97.31 %`."""
    if loss is None:
        return ""
    told = f"perplexity {perplexity(loss):,.4g}" if accuracy is None else f"accuracy {accuracy:.2%}".replace("%", " %")
    return f"val {loss:.4f}  {told}"
