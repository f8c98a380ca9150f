"""The next token from a row of logits: as models/sampling.py chooses, without sorting a whole vocabulary.

The likeliest few are enough for top-k, and for top-p when they reach p; else everything is sorted. One number is drawn
from the request's own generator for each token, so that a seed gives the same text whatever else is being served.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smolcluster.models.sampling import Sampling

# So many are looked at first for top-p.
_FEW = 256


def pick(logits: Tensor, how: Sampling, generator: torch.Generator) -> int:
    """One token id from (V,) float32 logits. At least one token stays in, however small top_p is."""
    if how.temperature == 0:
        return int(logits.argmax())
    ids, chances = candidates(logits, how)
    drawn = torch.rand(1, generator=generator, dtype=torch.float64) * chances.sum()
    # The last one has no upper end, so that rounding loses nobody.
    return int(ids[torch.searchsorted(chances.cumsum(0)[:-1], drawn, right=True)])


def candidates(logits: Tensor, how: Sampling) -> tuple[Tensor, Tensor]:
    """The ids that are in, likeliest first, and their weights (float64, of no fixed sum)."""
    scaled = logits.double() / how.temperature
    count = min(how.top_k or len(scaled), len(scaled))
    if how.top_p >= 1:
        values, ids = _likeliest(scaled, count)
        return ids, (values - values[0]).exp()
    whole = scaled if count == len(scaled) else _likeliest(scaled, count)[0]
    total = whole.logsumexp(0)
    few = min(count, _FEW)
    values, ids = _likeliest(scaled, few)
    chances = (values - total).exp()
    if few < count and chances.sum() < how.top_p:
        values, ids = _likeliest(scaled, count)
        chances = (values - total).exp()
    kept = int((chances.cumsum(0) - chances < how.top_p).sum())
    return ids[: max(kept, 1)], chances[: max(kept, 1)]


def _likeliest(scaled: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest, ties by the smaller id."""
    if count == len(scaled):
        values, ids = scaled.sort(descending=True, stable=True)
        return values, ids
    least = scaled.topk(count).values[-1]
    ids = (scaled >= least).nonzero().flatten()  # a few more than `count` when there are ties
    values, order = scaled[ids].sort(descending=True, stable=True)
    return values[:count], ids[order[:count]]
