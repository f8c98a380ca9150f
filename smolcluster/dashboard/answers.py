"""What clients of the dashboard get. Times are seconds since 1970 by this machine's clock; `_s` are seconds, `_ms`
milliseconds, `mbps` Mbit/s. What nobody knows is null.

Cursors are texts to give back as they are. They hold what was seen (positions in files, hashes), nothing that lives in
this process: they are good after it was started again.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

DASHBOARD_SCHEMA = 1

Kind = Literal["training", "serving", "profile", "unknown"]
NodeState = Literal["unknown", "starting", "running", "restarting", "lost", "completed", "failed", "stopped"]
EventKind = Literal["join", "leave", "restart", "checkpoint", "straggler", "fault", "warning", "error", "stop", "end"]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Grouping = Literal["run", "node", "rank"]
SeriesName = Literal[
    "loss",
    "val_loss",
    "val_accuracy",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "step_ms",
    "compute_ms",
    "communication_ms",
    "waiting_ms",
    "data_ms",
    "bytes_sent",
    "bytes_received",
    "staleness",
    "memory_mb",
    "cpu_percent",
    "temperature_c",
    "link_mbps",
    "link_rtt_ms",
]


class RunRank(BaseModel):
    """A rank as planned. `layers` half-open, where they are split; `samples` of each global batch, `share` of it.

    `memory_mb`: what it is predicted to hold; `machine_mb`: its part of what its machine has.
    """

    rank: int
    node: str
    role: Literal["worker", "server", "stage", "api"]
    device: str
    layers: tuple[int, int] | None = None
    samples: int | None = None
    share: float | None = None
    memory_mb: float | None = None
    machine_mb: int | None = None
    threads: int


class RunNode(BaseModel):
    """A machine. `kind` null: the run's folder does not tell (it is of an older smolcluster)."""

    name: str
    kind: Literal["macos", "linux", "windows", "ipados"] | None = None
    controller: bool = False
    ranks: list[int]


class RunLink(BaseModel):
    """The way that two machines use, once for both directions; `src` is that of the lower rank.

    `networks`: the wires passed, in order; `medium` is the last one's; `speed_mbps` what the inventory claims of the
    slowest; `gateways` are machines that forward. Without a topology.json there is `address` alone.
    """

    src: str
    dst: str
    address: str
    networks: list[str] = Field(default_factory=list)
    medium: Literal["loopback", "thunderbolt", "ethernet", "wifi"] | None = None
    speed_mbps: float | None = None
    gateways: list[str] = Field(default_factory=list)
    encrypted: bool = False


class RunPredicted(BaseModel):
    """What the plan expects of a step."""

    step_ms: float
    compute_ms: float
    communication_ms: float
    tokens_per_s: float | None = None


class RunAnswer(BaseModel):
    """GET /dashboard/run: what does not change.

    `problem`: why less can be shown than usual, and what to do (a folder of another version, no plan). `counts` is what
    tokens are in this run: a picture is one sample. `can_stop`: POST /dashboard/stop may be used, if it is not over.
    `shape`: who talks to whom.
    """

    schema_: int = Field(default=DASHBOARD_SCHEMA, alias="schema", serialization_alias="schema")
    run_id: str
    kind: Kind
    problem: str | None = None
    strategy: str | None = None
    model: str | None = None
    dataset: str | None = None
    cluster: str | None = None
    transport: str | None = None
    wire: str | None = None
    shape: Literal["MESH", "STAR", "CHAIN"] | None = None
    params: int | None = None
    global_batch: int | None = None
    counts: Literal["tokens", "samples"] = "tokens"
    started: float | None = None
    can_stop: bool = False
    nodes: list[RunNode] = Field(default_factory=list)
    ranks: list[RunRank] = Field(default_factory=list)
    links: list[RunLink] = Field(default_factory=list)
    predicted: RunPredicted | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class StepAnswer(BaseModel):
    """Means of the last few steps of a rank, or over the ranks of a node. Bytes are those of a step.

    `communication_ms`: waiting for bytes, as the rank that waited least for the others did in the same steps;
    `waiting_ms`: what it waited longer than that, for others to be ready. `data_ms`: for its samples.
    """

    step_ms: float
    compute_ms: float
    communication_ms: float
    waiting_ms: float
    data_ms: float
    bytes_sent: float
    bytes_received: float
    tokens_per_s: float
    staleness: float = 0.0


class RankNow(BaseModel):
    """A rank now. `doing`: running, restarting, or how it ended."""

    rank: int
    doing: str
    step: int | None = None
    steps: StepAnswer | None = None


class NodeNow(BaseModel):
    """A machine now. `heard_s`: how long ago it was heard of; `reason`: why it is as it is, in words.

    `remark` is a word or two that explain the run's speed ("slowest", "waits 40%", "no step"), `why` a sentence where
    there is more to say. `clock_offset_s`: how far its clock is ahead of ours, already taken out of all times here.
    Hardware figures are there where the machine's system tells: `memory_mb` is what its ranks hold, `throttled` what
    slows it down now, "" for nothing.
    """

    node: str
    state: NodeState
    reason: str = ""
    restarts: int = 0
    restart_reason: str = ""
    generation: int = 0
    heard_s: float | None = None
    clock_offset_s: float | None = None
    step: int | None = None
    steps: StepAnswer | None = None
    remark: str = ""
    why: str = ""
    memory_mb: float | None = None
    memory_free_mb: float | None = None
    cpu_percent: float | None = None
    temperature_c: float | None = None
    throttled: str | None = None
    ranks: list[RankNow] = Field(default_factory=list)


class LinkNow(BaseModel):
    """A link as its rank `src` saw it last: Mbit/s as it was used, the round trip, bytes that waited to be sent."""

    src: int
    dst: int
    src_node: str
    dst_node: str
    mbps: float | None = None
    rtt_ms: float | None = None
    buffered_bytes: int | None = None
    step: int | None = None
    time: float | None = None
    slow: bool = False


class SlowestAnswer(BaseModel):
    """Who holds up the others, and why, as a sentence."""

    node: str
    why: str


class StageNow(BaseModel):
    """A stage of a served model now. `layers` null: it serves none."""

    rank: int
    node: str
    layers: tuple[int, int] | None = None
    health: Literal["serving", "recovering", "lost", "unknown"] = "unknown"
    ms_per_token: float | None = None
    sessions: int | None = None


class ServingNow(BaseModel):
    """A served model now: what the API says, and its stages in order. Counts and speed of one that is served no more
    are those of its summary, over all the time that it was; `ms_per_token` of its stages are the last ones.
    """

    state: Literal["starting", "ready", "lost", "closed"]
    reason: str = ""
    active: int = 0
    waiting: int = 0
    requests: int = 0
    failed: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0
    urls: dict[str, str] = Field(default_factory=dict)
    stages: list[StageNow] = Field(default_factory=list)


class StateAnswer(BaseModel):
    """GET /dashboard/state, and the data of each event of GET /dashboard/stream: how it is now.

    `state` "gone": the run's folder is not there any more. `over`: nobody is at the run any more, nothing will change.
    `data`: a word that changes whenever metrics, events or logs may have something new.
    `generation` grows when ranks are started again, which may take steps back: series begin anew then.
    """

    cursor: str
    time: float
    state: Literal["starting", "running", "restarting", "completed", "failed", "stopped", "lost", "gone"]
    reason: str = ""
    over: bool
    data: str = ""
    generation: int = 0
    restarts: int = 0
    step: int | None = None
    total_steps: int | None = None
    progress: float | None = None
    elapsed_s: float | None = None
    eta_s: float | None = None
    loss: float | None = None
    val_loss: float | None = None
    tokens_per_s: float | None = None
    slowest: SlowestAnswer | None = None
    nodes: list[NodeNow] = Field(default_factory=list)
    links: list[LinkNow] = Field(default_factory=list)
    serving: ServingNow | None = None
    notes: list[str] = Field(default_factory=list)


class SeriesLine(BaseModel):
    """One curve, as columns of the same length, steps ascending. Of the whole run `node` and `rank` are null.

    A served model takes no steps: there they are whole seconds since 1970.
    """

    label: str
    node: str | None = None
    rank: int | None = None
    peer: int | None = None
    steps: list[int]
    values: list[float]
    times: list[float]


class SeriesAnswer(BaseModel):
    """GET /dashboard/series. Of each stretch its lowest and its highest point are kept.

    `last_step`, the last of those that were asked for and all curves have, is what to give as `since_step` next: of a
    curve that is further, steps come again. Where `generation` has changed since, ask from the start anew.
    """

    name: SeriesName
    unit: str
    by: Grouping
    generation: int
    last_step: int
    lines: list[SeriesLine]


class EventAnswer(BaseModel):
    """One thing that happened. `id` is the same in every answer. `time` null: all along."""

    id: str
    time: float | None
    node: str
    rank: int | None = None
    kind: EventKind
    step: int | None = None
    text: str


class EventsAnswer(BaseModel):
    """GET /dashboard/events: all of them in order of time, the newest 500 at most; `cursor` goes into `since`."""

    cursor: str
    events: list[EventAnswer]


class LogLine(BaseModel):
    """A line of a log. `rank` null: the supervisor's. `time` is the one before it where the line has none of its own.

    `id` tells lines apart: node, rank and place in the file.
    """

    id: str
    time: float | None
    node: str
    rank: int | None = None
    level: Level | None = None
    text: str


class LogsAnswer(BaseModel):
    """GET /dashboard/logs: lines in order of time. `before` and `after` are cursors for what is older and newer.

    `older`: there may be more before. `newer`: there is more after already. Where a search had to stop before it found
    `limit` lines, there are fewer, and it goes on from the cursors.
    """

    before: str
    after: str
    older: bool
    newer: bool
    lines: list[LogLine]


class StopAsked(BaseModel):
    """The body of POST /dashboard/stop: `confirm` is the run's id, so that nobody stops another run than he sees."""

    confirm: str = Field(max_length=200)


class StopAnswer(BaseModel):
    """It is being stopped: ranks finish their step and save the model. `nodes` are those that were asked."""

    run_id: str
    nodes: list[str]
