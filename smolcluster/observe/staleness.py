"""How far behind the weights were that ranks computed with, where ranks may be steps apart. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import Staleness


def staleness_account(ranks: Sequence[Iterable[StepRecord]]) -> dict[str, Any]:
    """What a summary says of it: `ranks` are the steps of those that took part at last, in order.

    By rank it is that of the weights which the rank owns, over the steps of all. Steps before a rank was lost for good,
    when others owned them, are in the run's figures only.
    """
    steps = [record for rank in ranks for record in rank]
    behind = [record for record in steps if record.staleness or record.lags]
    told: dict[str, Any] = {
        "staleness_mean": math.fsum(record.staleness_mean for record in behind) / max(1, len(steps)),
        "staleness_max": max((record.staleness for record in behind), default=0),
    }
    rows = [record.lags for record in behind if record.lags is not None and len(record.lags) == len(ranks)]
    if rows:
        told["staleness_by_rank"] = tuple(
            Staleness(mean=fmean(lags), max=max(lags)) for lags in zip(*rows, strict=True)
        )
    return told
