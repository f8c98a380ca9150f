"""Choosing the next token from logits: greedy, temperature, top-k, top-p."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smolcluster.models.cache import KVCache
from smolcluster.models.gpt import GPT
from smolcluster.models.llama import Llama


@dataclass(frozen=True)
class Sampling:
    """How to choose. temperature 0 is greedy; top_k 0 and top_p 1 leave all tokens in.

    ValueError for numbers outside: temperature >= 0, top_k >= 0, 0 < top_p <= 1.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top-k must be 0 (all tokens) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top-p must be above 0 and at most 1, not {self.top_p}")


def probabilities(logits: Tensor, how: Sampling) -> Tensor:
    """(V,) logits -> (V,) probabilities, float32, summing to 1; tokens that are out have 0.

    top_k first, then top_p on what is left: the fewest tokens whose probabilities reach top_p (Holtzman et al. 2020),
    the one that crosses it included. Ties are broken by the smaller id, so that no more than k stay.
    """
    logits = logits.float()
    if how.temperature == 0:
        return torch.zeros_like(logits).scatter_(0, logits.argmax(keepdim=True), 1.0)
    ordered, ids = (logits / how.temperature).sort(descending=True, stable=True)
    if how.top_k:
        ordered, ids = ordered[: how.top_k], ids[: how.top_k]
    chances = ordered.softmax(0)
    if how.top_p < 1:
        before = chances.cumsum(0) - chances
        chances = torch.where(before < how.top_p, chances, 0.0)
        chances = chances / chances.sum()
    return torch.zeros_like(logits).scatter_(0, ids, chances)


def choose(logits: Tensor, how: Sampling, generator: torch.Generator) -> int:
    """One token id from (V,) logits."""
    if how.temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(probabilities(logits, how), 1, generator=generator))


@torch.inference_mode()
def continuation(
    model: GPT | Llama, prompt: Sequence[int], count: int, how: Sampling, seed: int, end: int | None = None
) -> Iterator[int]:
    """Yield up to `count` token ids that follow `prompt` (at least one id); stop before `end`.

    With a cache of keys and values each token costs one column. The model knows num_positions: then
    the model goes on from the last half of what it has seen, so it reads a prefix again once in as many tokens as half.
    """
    if not prompt:
        raise ValueError("an empty prompt gives the model nothing to continue")
    capacity = model.spec.num_positions
    generator = torch.Generator().manual_seed(seed)
    seen = list(prompt)[-capacity:]
    cache, fresh = KVCache(model.spec.num_layers, capacity), seen
    for _ in range(count):
        if cache.length + len(fresh) > capacity:
            seen = seen[-max(capacity // 2, 1) :]
            cache, fresh = KVCache(model.spec.num_layers, capacity), seen
        logits = model.next_logits(torch.tensor([fresh]), cache)[0]
        token = choose(logits, how, generator)
        if token == end:
            return
        seen.append(token)
        fresh = [token]
        yield token
