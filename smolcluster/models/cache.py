"""Keys and values of the tokens already seen, so that a new token costs one column and not the whole prefix."""

from __future__ import annotations

import torch
from torch import Tensor

# Room for this many tokens at first; it doubles, so that a short answer does not cost a long one's memory.
_FIRST = 64


class LayerCache:
    """One layer's keys and values, (B, heads, up to capacity, head_dim) each, filled from the left."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, heads, T, head_dim) keys and values; give views of all that is held now."""
        end = self.length + key.shape[2]
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit into a cache for {self.capacity}")
        if self._keys is None or self._values is None or end > self._keys.shape[2]:
            self._keys, self._values = self._grown(self._keys, key, end), self._grown(self._values, value, end)
        self._keys[:, :, self.length : end] = key
        self._values[:, :, self.length : end] = value
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(held.nbytes for held in (self._keys, self._values) if held is not None)

    def _grown(self, held: Tensor | None, like: Tensor, end: int) -> Tensor:
        room = min(self.capacity, max(end, _FIRST if held is None else 2 * held.shape[2]))
        grown = like.new_empty((*like.shape[:2], room, like.shape[3]))
        if held is not None:
            grown[:, :, : self.length] = held[:, :, : self.length]
        return grown


class KVCache:
    """One LayerCache per layer. `length` is the number of tokens it holds."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.layers = tuple(LayerCache(capacity) for _ in range(layers))

    @property
    def length(self) -> int:
        """Tokens held, the position of the next one."""
        return self.layers[0].length

    @property
    def capacity(self) -> int:
        """The most tokens it will hold."""
        return self.layers[0].capacity

    @property
    def bytes(self) -> int:
        """Memory held by all layers."""
        return sum(layer.bytes for layer in self.layers)


def with_past(cache: LayerCache | None, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """Keys and values (B, heads, T, head_dim) after those that a cache holds, which they are added to.

    With them what makes attention to them causal: a mask (T, past + T), or that SDPA's own is right.
    """
    length = key.shape[2]
    if cache is None:
        return key, value, None, length > 1
    key, value = cache.append(key, value)
    past = key.shape[2] - length
    if not past or length == 1:
        return key, value, None, length > 1
    # SDPA's own causal mask is aligned to the upper left: with a past it must be given.
    return key, value, torch.ones(length, past + length, dtype=torch.bool, device=key.device).tril(past), False
