"""How a model says in which stretches its forward pass goes through its parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ShardUnit:
    """A stretch of the forward pass, and the modules whose parameters it reads.

    It begins when `opens` is called (the first unit: when the pass begins) and ends where the next one begins. Units
    come one after the other, each reading what the one before it computed; a module may belong to several (a tied
    embedding). `reread`: backward reads the parameters again. Not so of embeddings, whose gradient needs only the ids.
    """

    opens: nn.Module
    modules: tuple[nn.Module, ...]
    reread: bool = True
