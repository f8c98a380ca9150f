"""The run folder (DESIGN section 7): every path in it, and its records or where they are. No torch.

The layout is the same on every host: a node writes nodes/<node>/..., rank 0's node also model/ and checkpoints/, the
controller plan.json, summary.json and plots/. Collecting a node is copying its nodes/<node> tree.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from smolcluster.files import write_atomic as write_atomic  # every record of a run is written so
from smolcluster.runtime.servingnote import SERVING_SCHEMA as SERVING_SCHEMA  # the larger records have their own places
from smolcluster.runtime.servingnote import RequestRecord as RequestRecord
from smolcluster.runtime.servingnote import ServingNote as ServingNote
from smolcluster.runtime.summary import SUMMARY_SCHEMA as SUMMARY_SCHEMA
from smolcluster.runtime.summary import GradientAccount as GradientAccount
from smolcluster.runtime.summary import Staleness as Staleness
from smolcluster.runtime.summary import Status as Status
from smolcluster.runtime.summary import Summary as Summary
from smolcluster.spec.base import Frozen

RESULT_SCHEMA = 1
JOB_SCHEMA = 1
PROFILE = "profile.json"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Nothing is created by asking for a path."""

    path: Path

    @property
    def plan(self) -> Path:
        """plan.json."""
        return self.path / "plan.json"

    @property
    def topology(self) -> Path:
        """topology.json, the inventory's machines and wires: TopologyNote. Runs of before have none."""
        return self.path / "topology.json"

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

    def clock(self, node: str) -> Path:
        """On the controller: how far the clock of a node elsewhere is ahead. Written by the playbook: ClockNote."""
        return self.path / ".follow" / ".clock" / f"{node}.json"

    @property
    def stop_wish(self) -> Path:
        """On the controller: somebody at the dashboard wants the run to end. Obeyed by the playbook: StopWish."""
        return self.path / ".follow" / ".stop.json"

    @property
    def detached(self) -> Path:
        """On the controller: made when the run was started to go on without it. Of its parts elsewhere nobody hears
        then, until they are collected.
        """
        return self.path / ".follow" / ".detached"

    @property
    def dashboard_links(self) -> Path:
        """On the controller: which links to the run's dashboard have let somebody in."""
        return self.path / ".dashboard_links"

    @property
    def was_ready(self) -> Path:
        """On the controller: made when the served model answered for the first time."""
        return self.path / ".follow" / ".ready"

    def endpoint(self, node: str) -> Path:
        """Rank 0's own announcement of a port chosen at start (plan port 0); readable by ranks of the same machine."""
        return self.node(node) / "endpoint.json"


class ClockNote(Frozen):
    """How many seconds a node's clock is ahead of the controller's, and how far from that the truth may be."""

    schema_: int = Field(default=1, alias="schema", serialization_alias="schema")
    offset_s: float
    within_s: float


class StopWish(Frozen):
    """That a run is to end: since when, and the words its nodes give as the reason."""

    schema_: int = Field(default=1, alias="schema", serialization_alias="schema")
    time: float
    reason: str


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


def run_at(path: Path) -> Path:
    """The run folder a person means. `runs/latest` is a link, or where there are none a file that holds the name."""
    if path.is_file():
        path = path.parent / path.read_text(encoding="utf-8").strip()
    # Not resolve(), which fails where links lead round in a circle: nothing is there then.
    return Path(os.path.realpath(path))


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file. OSError or ValueError if it is not there or not one."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return value
