"""The records of metrics.jsonl, a line each: steps, and now and then links, gradients, validation losses. No torch.

What a node's supervisor sees of the machine stands in the node's hardware.jsonl.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from smolcluster.spec.base import Frozen

METRICS_SCHEMA = 1


class StepRecord(Frozen):
    """One line of metrics.jsonl: one training step of one rank. Times in seconds, bytes counted on sockets."""

    schema_: int = Field(default=METRICS_SCHEMA, alias="schema", serialization_alias="schema")
    step: int
    time: float
    loss: float
    lr: float
    tokens: int
    tokens_per_s: float
    grad_norm: float
    step_s: float
    compute_s: float
    comm_s: float
    bytes_out: int
    bytes_in: int
    staleness: int = 0
    # Of ranks that may be steps apart, by the rank that owns a shard: how many steps its weights lacked of somebody's
    # gradients. `staleness` is the most of them.
    lags: tuple[int, ...] | None = None
    # The same, in a line after which all rest: how many gradients the shard of this rank has taken since the last such
    # line. One of each rank for each step: none is lost, none counts twice.
    applied: int | None = None
    # Of a server that collects gradients (syncps): how many of this step's had been meant for one before; None: none.
    late: int | None = None
    val_loss: float | None = None
    # Under float16: what the loss was multiplied by, and whether gradients overflowed and nothing was updated.
    loss_scale: float | None = None
    skipped: bool | None = None
    val_accuracy: float | None = None
    # Of step_s: how long the step waited for its samples.
    data_s: float = 0.0
    # What `tokens` counts: a picture is one.
    counts: Literal["tokens", "samples"] = "tokens"
    total_steps: int
    # Of a stage (mp): the share of the step that it waited for the others.
    idle_share: float | None = None
    # Where a line is a round of several steps (diloco): how many this rank took, and how long its slot was.
    inner_steps: int | None = None
    slot_s: float | None = None

    @property
    def staleness_mean(self) -> float:
        """Over the owners of shards."""
        return sum(self.lags) / len(self.lags) if self.lags else float(self.staleness)

    @property
    def own_steps(self) -> int:
        """How many steps of this rank the line tells of."""
        return self.inner_steps if self.inner_steps is not None else 1


class LinkRecord(Frozen):
    """Another kind of line of metrics.jsonl, every metrics_log_interval steps: one link as this rank sees it.

    `node` and `address`: the peer's machine, and where the socket leads, which tells the wire. `bytes_out` and
    `bytes_in` were counted on the link's sockets in the `seconds` since the line before; `mbps` is both, over that
    time. `rtt_ms`: there and back, the shortest in that time; `rtt_by` "ping": from rank to rank and back, "kernel":
    as TCP measured it. In the system's buffers are, in bytes: `buffered`, written and not acknowledged yet; `unread`,
    come and not read yet. What is missing the system does not tell; runs of before wrote 0 and told less.
    """

    schema_: int = Field(default=METRICS_SCHEMA, alias="schema", serialization_alias="schema")
    kind: Literal["links"] = "links"
    step: int
    time: float
    peer: int
    node: str = ""
    address: str = ""
    seconds: float | None = None
    bytes_out: int | None = None
    bytes_in: int | None = None
    mbps: float
    rtt_ms: float | None = None
    rtt_by: Literal["ping", "kernel"] | None = None
    buffered: int | None = None
    unread: int | None = None


class HardwareRecord(Frozen):
    """A line of a node's hardware.jsonl: the machine as its supervisor saw it. What is None the system does not tell.

    `cpu`: the share of all cores that worked since the line before. `memory_free_mb`: what is free or could be freed
    at once. `rss_mb`: the resident memory of the node's ranks, by rank. `throttled`: what slows the machine down now,
    "" for nothing.
    """

    schema_: int = Field(default=METRICS_SCHEMA, alias="schema", serialization_alias="schema")
    kind: Literal["hardware"] = "hardware"
    time: float
    cpu: float
    cores: int
    load: float | None = None
    memory_mb: int
    memory_free_mb: int
    rss_mb: dict[int, float] = Field(default_factory=dict)
    temperature_c: float | None = None
    throttled: str | None = None


class GradientRecord(Frozen):
    """A third kind of line, in rank 0's metrics.jsonl only: norms of the mean gradient before clipping, by parameter.

    Every metrics_log_interval steps and at the last, where training.track_gradients asks for them. A server's are of
    the step's last update; where ranks may be steps apart they are of rank 0's own gradient.
    """

    schema_: int = Field(default=METRICS_SCHEMA, alias="schema", serialization_alias="schema")
    step: int
    time: float
    norms: dict[str, float]


class ValidationRecord(Frozen):
    """A fourth kind, in the metrics.jsonl of a server: the validation loss of a step whose line stands there already.

    It is measured on a copy of the weights while training goes on.
    """

    schema_: int = Field(default=METRICS_SCHEMA, alias="schema", serialization_alias="schema")
    step: int
    time: float
    val_loss: float
    val_accuracy: float | None = None


MetricsRecord = StepRecord | LinkRecord | GradientRecord | ValidationRecord
