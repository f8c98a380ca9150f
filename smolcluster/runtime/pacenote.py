"""pace.json: what a rank measured in a run of kind profile. No torch."""

from __future__ import annotations

from pydantic import Field

from smolcluster.plan.decoding import DecodePace
from smolcluster.spec.base import Frozen

PACE_SCHEMA = 1


class LinkPace(Frozen):
    """One link of a rank: Mbit/s from the peer to it, and the round trip to the peer and back, while all computed.

    `idle_*`: the same while nobody did, as when a step waits for the wire.
    """

    peer: int
    mbps: float = Field(gt=0)
    rtt_ms: float = Field(ge=0)
    idle_mbps: float | None = Field(default=None, gt=0)
    idle_rtt_ms: float | None = Field(default=None, ge=0)


class RankPace(Frozen):
    """pace.json: what one rank measured of itself and its links, while all others did the same.

    `step_s`: median of `steps` steps of its share, forward to optimizer, `update_s` of it the optimizer's, `pass_s` of
    each of its micro-batches what does not depend on samples; `tokens` of such a step. `time` in seconds of the clock
    on the wall. `decode`: of the layers of a model that could be served.
    """

    schema_: int = Field(default=PACE_SCHEMA, alias="schema", serialization_alias="schema")
    rank: int
    node: str
    time: float
    steps: int
    step_s: float = Field(gt=0)
    update_s: float = Field(ge=0)
    pass_s: float = Field(default=0.0, ge=0)
    samples: int
    tokens: int
    device: str
    threads: int
    versions: dict[str, str]
    links: tuple[LinkPace, ...]
    decode: DecodePace | None = None
