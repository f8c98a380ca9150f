"""Keys and values of the tokens already seen, so that a new token costs one column and not the whole prefix."""

from __future__ import annotations

from torch import Tensor


class LayerCache:
    """One layer's keys and values, (B, heads, capacity, head_dim) each, filled from the left."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, heads, T, head_dim) keys and values; give views of all that is held now."""
        if self._keys is None or self._values is None:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._keys, self._values = key.new_empty(shape), value.new_empty(shape)
        end = self.length + key.shape[2]
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit into a cache for {self.capacity}")
        self._keys[:, :, self.length : end] = key
        self._values[:, :, self.length : end] = value
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class KVCache:
    """One LayerCache per layer. `length` is the number of tokens it holds."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.layers = tuple(LayerCache(capacity) for _ in range(layers))

    @property
    def length(self) -> int:
        """Tokens held, the position of the next one."""
        return self.layers[0].length
