"""summary.json: how a run ended and what came of it, made by the report. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from smolcluster.spec.base import Frozen

SUMMARY_SCHEMA = 1

Status = Literal["completed", "failed", "stopped"]


class GradientAccount(Frozen):
    """What became of every gradient that workers pushed to a server. The samples are those of the leases.

    pushed = applied + the sum of refused + rolled_back + pending; leased = applied + outstanding + released.
    Late, of those applied, are gradients that had been meant for an update before (syncps). A duplicate is a gradient
    that came again: it is counted once. Rolled back is what a killed server had applied after the checkpoint that it
    went on from.
    """

    pushed: int = 0
    applied: int = 0
    late: int = 0
    refused: dict[str, int] = Field(default_factory=dict)
    rolled_back: int = 0
    duplicates: int = 0
    pending: int = 0
    samples_leased: int = 0
    samples_applied: int = 0
    samples_outstanding: int = 0
    samples_released: int = 0


class Staleness(Frozen):
    """How many steps weights lacked of somebody's gradients when they were computed with."""

    mean: float
    max: int


class Summary(Frozen):
    """summary.json. `wire_bytes_per_step` is summed over ranks; peak_rss_mb is per rank, in rank order.

    A run of kind inference has no steps, losses and staleness: these are null. `tokens` are the generated ones, and
    `tokens_per_s` is over the time in which any request was under way. One of kind profile has none either:
    `tokens_per_s` is what all ranks compute where nobody waits for anybody.
    """

    schema_: int = Field(default=SUMMARY_SCHEMA, alias="schema", serialization_alias="schema")
    run_id: str
    kind: Literal["train", "inference", "profile"]
    strategy: str
    status: Status
    exit_code: int
    reason: str = ""
    world_size: int
    transport: str
    steps: int | None = None
    tokens: int
    seconds: float
    tokens_per_s: float
    loss_first: float | None = None
    loss_last: float | None = None
    val_loss_first: float | None = None
    val_loss: float | None = None
    # The share told right, of a model that tells classes; exp(val_loss) of one that writes, per token of `tokenizer`.
    val_accuracy: float | None = None
    perplexity: float | None = None
    tokenizer: str | None = None
    # What tokens and tokens_per_s count.
    counts: Literal["tokens", "samples"] = "tokens"
    # The share of training time that the ranks waited for samples.
    data_share: float | None = None
    params: int
    wire_bytes_per_step: float | None = None
    peak_rss_mb: tuple[float, ...]
    staleness_mean: float | None = None
    staleness_max: int | None = None
    # Where ranks may be steps apart: that of the weights which each rank owns. The mean of these is `staleness_mean`.
    staleness_by_rank: tuple[Staleness, ...] | None = None
    restarts: int
    generation: int
    resumed_from: str = ""
    resumed_step: int | None = None
    # Of a run with a server: what became of the workers' gradients.
    gradients: GradientAccount | None = None
    # Where ranks take steps of their own: rounds in which they exchanged, the median slot, and each rank's steps.
    rounds: int | None = None
    slot_s: float | None = None
    own_steps: tuple[int, ...] | None = None
    # Of layers that are split: the share of its steps that each rank waited for the others, and what even stages must.
    idle_share: tuple[float | None, ...] | None = None
    idle_planned: float | None = None
    # Of a served model: requests that ended, those that failed because of us, and seconds from arrival to first token.
    requests: int | None = None
    failed: int | None = None
    first_token_s: float | None = None
    first_token_p95_s: float | None = None
