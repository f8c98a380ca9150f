"""The run folder (DESIGN section 7): every path and every record in it, in one place. No torch.

The layout is the same on every host: a node writes nodes/<node>/..., rank 0's node also model/ and checkpoints/, the
controller plan.json, summary.json and plots/. Collecting a node is copying its nodes/<node> tree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from smolcluster.files import write_atomic as write_atomic  # every record of a run is written so
from smolcluster.spec.base import Frozen

RESULT_SCHEMA = 1
SUMMARY_SCHEMA = 1
JOB_SCHEMA = 1
SERVING_SCHEMA = 1
PROFILE = "profile.json"

Status = Literal["completed", "failed", "stopped"]


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Nothing is created by asking for a path."""

    path: Path

    @property
    def plan(self) -> Path:
        """plan.json."""
        return self.path / "plan.json"

    @property
    def summary(self) -> Path:
        """summary.json, made by the report."""
        return self.path / "summary.json"

    @property
    def model(self) -> Path:
        """The trained model, Hugging Face format."""
        return self.path / "model"

    @property
    def profile(self) -> Path:
        """What a run of kind profile measured, made by the report."""
        return self.path / PROFILE

    @property
    def plots(self) -> Path:
        """The report's figures."""
        return self.path / "plots"

    @property
    def page(self) -> Path:
        """The report as one page."""
        return self.path / "report.html"

    @property
    def tracking(self) -> Path:
        """What experiment trackers were given, made after the run."""
        return self.path / "tracking"

    @property
    def prometheus(self) -> Path:
        """On the controller: what Prometheus needs to look at the run (runtime/scraping.py)."""
        return self.path / "prometheus"

    @property
    def checkpoints(self) -> Path:
        """Manifests."""
        return self.path / "checkpoints"

    def node(self, node: str) -> Path:
        """All that one machine leaves."""
        return self.path / "nodes" / node

    def supervisor_log(self, node: str) -> Path:
        """What the supervisor says."""
        return self.node(node) / "supervisor.txt"

    def control(self, node: str) -> Path:
        """Where the supervisor listens for commands and the token that proves the right to give them. Mode 0600."""
        return self.node(node) / "control.json"

    def job_state(self, node: str) -> Path:
        """What the supervisor last knew of itself and its ranks: JobState."""
        return self.node(node) / "job.json"

    def rank(self, node: str, rank: int) -> Path:
        """All that one rank leaves."""
        return self.node(node) / f"rank-{rank}"

    def metrics(self, node: str, rank: int) -> Path:
        """StepRecords and LinkRecords, one per line."""
        return self.rank(node, rank) / "metrics.jsonl"

    def hardware(self, node: str) -> Path:
        """What the supervisor saw of the machine: HardwareRecords, one per line."""
        return self.node(node) / "hardware.jsonl"

    def log(self, node: str, rank: int) -> Path:
        """The worker's stdout and stderr."""
        return self.rank(node, rank) / "log.txt"

    def result(self, node: str, rank: int) -> Path:
        """RankResult, written at the end."""
        return self.rank(node, rank) / "result.json"

    def pace(self, node: str, rank: int) -> Path:
        """What a rank measured in a run of kind profile: RankPace (runtime/pacenote.py)."""
        return self.rank(node, rank) / "pace.json"

    def finished(self, node: str, rank: int) -> Path:
        """RankResult of a rank whose work is done, while it does not know yet that the others' is known to be."""
        return self.rank(node, rank) / "finished.json"

    def generation(self, node: str, rank: int) -> Path:
        """The start of the run's ranks that this rank was in last: GenerationNote."""
        return self.rank(node, rank) / "generation.json"

    def muster(self, node: str, rank: int) -> Path:
        """Where a rank of an elastic run is found before there is a generation, if its port is any free one."""
        return self.rank(node, rank) / "muster.json"

    def journal(self, node: str, rank: int) -> Path:
        """A server's ledger as of now, for its next process: see train/star/journal.py."""
        return self.rank(node, rank) / "gradients.json"

    def serving(self, node: str, rank: int) -> Path:
        """What the API's rank says of itself now: ServingNote."""
        return self.rank(node, rank) / "serving.json"

    def tablet(self, node: str, rank: int) -> Path:
        """What the rank of a tablet's stage says of it now: TabletNote (runtime/tabletnote.py)."""
        return self.rank(node, rank) / "tablet.json"

    def links_used(self, node: str, rank: int) -> Path:
        """Which links to its page the API's rank has let somebody in by."""
        return self.rank(node, rank) / "links_used"

    def requests(self, node: str, rank: int) -> Path:
        """RequestRecords, one per line, written by the API's rank."""
        return self.rank(node, rank) / "requests.jsonl"

    @property
    def all_requests(self) -> Path:
        """The RequestRecords of the whole run in the order they ended, made by the report."""
        return self.path / "requests.jsonl"

    def followed(self, node: str) -> Path:
        """On the controller: how following the node ended. Written by the playbook for its other nodes."""
        return self.path / ".follow" / node

    def heard(self, node: str) -> Path:
        """On the controller: what a node that is elsewhere answered last. Written by the playbook, for `watch`."""
        return self.path / ".follow" / ".heard" / f"{node}.json"

    @property
    def was_ready(self) -> Path:
        """On the controller: made when the served model answered for the first time."""
        return self.path / ".follow" / ".ready"

    def endpoint(self, node: str) -> Path:
        """Rank 0's own announcement of a port chosen at start (plan port 0); readable by ranks of the same machine."""
        return self.node(node) / "endpoint.json"


class ServingNote(Frozen):
    """How serving goes, whole and atomic at every change and about every second. `urls`: api, page.

    `model` is the name that requests give, "" before it is known; `chat`: it has a chat template.
    `state` is what /health says: ready, or why not in `reason`. Counts are since the API's rank began. `layers`: by
    rank of a stage those it had when it was ready last ("0:10"); one that is missing then served none.
    """

    schema_: int = Field(default=SERVING_SCHEMA, alias="schema", serialization_alias="schema")
    time: float
    state: Literal["starting", "ready", "lost", "closed"]
    reason: str = ""
    urls: dict[str, str] = Field(default_factory=dict)
    layers: dict[int, str] = Field(default_factory=dict)
    model: str = ""
    chat: bool = False
    active: int = 0
    waiting: int = 0
    requests: int = 0
    failed: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0


class RequestRecord(Frozen):
    """One line of requests.jsonl: a request that ended. No word of what was asked or answered. Times in seconds.

    `finish`: stop, length, cancelled, or the error's kind. `first_s`: from its arrival to the first token.
    """

    schema_: int = Field(default=SERVING_SCHEMA, alias="schema", serialization_alias="schema")
    time: float
    id: str
    endpoint: str
    status: int
    stream: bool
    prompt_tokens: int
    completion_tokens: int
    first_s: float | None = None
    seconds: float
    finish: str

    @property
    def failed(self) -> bool:
        """Whether we failed it. One that was refused, or that its sender gave up, has not failed."""
        return self.status >= 500 or self.finish in ("deadline", "stage_lost", "session", "closed")


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


class RankResult(Frozen):
    """What a rank says when it ends (result.json). Written by the worker, or by the supervisor for a rank that died.

    `generation`: the start of the run's ranks that it tells of, counted from 0. `finished`: its work was done, whatever
    happened to it afterwards; `final`: another start would fail the same way.
    """

    schema_: int = Field(default=RESULT_SCHEMA, alias="schema", serialization_alias="schema")
    rank: int
    node: str
    status: Status
    exit_code: int
    reason: str = ""
    # True where this rank failed of itself and not because a peer did: the report starts with it.
    root_cause: bool = False
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_first: float | None = None
    loss_last: float | None = None
    val_loss_first: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    wire_bytes_out: int = 0
    wire_bytes_in: int = 0
    peak_rss_mb: float = 0.0
    transport: str = ""
    generation: int = 0
    finished: bool = False
    final: bool = False
    # The earlier run, and its step, that this one went on from; a restart in place is told by `generation`.
    resumed_from: str = ""
    resumed_step: int | None = None
    # Of a server (edp, syncps): what became of the workers' gradients.
    gradients: GradientAccount | None = None


class JobState(Frozen):
    """job.json: the supervisor's own state. `ranks` maps a rank to "running" or the exit code as text; a served model's
    that is about to be started again to "restarting".

    `restarts` counts how often the node's ranks were started again, of a served model's those that failed of
    themselves; `restart_reason` says why the last time (`restart_ours`: because of something here), `resumed_step`
    after which step they went on. `lost`: the supervisor itself died, and somebody else wrote this. `began`: when the
    run's first supervisor here did, in seconds of the clock on the wall; `seconds`: from then until this was written.
    """

    schema_: int = Field(default=JOB_SCHEMA, alias="schema", serialization_alias="schema")
    run_id: str
    node: str
    state: Literal["starting", "running", "restarting", "completed", "failed", "stopped"]
    pid: int
    generation: int
    ranks: dict[int, str]
    reason: str = ""
    restarts: int = 0
    restart_reason: str = ""
    restart_ours: bool = False
    resumed_step: int | None = None
    lost: bool = False
    began: float = 0.0
    seconds: float = 0.0


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


def run_at(path: Path) -> Path:
    """The run folder a person means. `runs/latest` is a link, or where there are none a file that holds the name."""
    if path.is_file():
        return (path.parent / path.read_text(encoding="utf-8").strip()).resolve()
    return path.resolve()


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file. OSError or ValueError if it is not there or not one."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return value
