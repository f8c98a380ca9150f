"""The plan: what each rank must do. Written as plan.json, hashed, and read by everything that runs.

`NodeConfig` is the other half: one host's node.yaml, templated by Ansible, which says where this host's ranks listen,
whom they dial and which folders they use. A worker reads both.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field

from smolcluster.plan.grid import Grid
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import App, TabletPrecision
from smolcluster.spec.run import RunSpec, WireFormat
from smolcluster.spec.serving import ServeSpec
from smolcluster.spec.values import is_loopback

PLAN_SCHEMA = 1
NODE_SCHEMA = 1
TabletFormat = Literal["coreml", "onnx"]
TABLET_FORMATS: dict[App, TabletFormat] = {"native": "coreml", "browser": "onnx"}


class RankPlan(Frozen):
    """One process. `listen` are its own addresses that somebody dials; `peers[r]` is the host to dial to reach rank r.

    A `port` of 0 means any free port: rank 0's is then announced in the run folder, the others' through the store.
    `samples` is this rank's share of the global batch. `encrypt[r]` tells whether the link to rank r runs in TLS.
    `memory_mb`: its part of what its machine has, None where nobody says.
    A served model's ranks are stages, the first of them the head, and last the one that answers HTTP ("api").
    """

    rank: int = Field(ge=0)
    node: str
    local_rank: int = Field(ge=0)
    role: Literal["worker", "server", "stage", "api"]
    device: Literal["auto", "cpu", "mps", "cuda"]
    listen: tuple[str, ...]
    port: int = Field(ge=0, le=65535)
    peers: dict[int, str]
    encrypt: dict[int, bool] = Field(default_factory=dict)
    samples: int = Field(ge=0)
    buffer_mb: float = Field(gt=0)
    threads: int = Field(ge=1)
    memory_mb: int | None = None


class MemoryEstimate(Frozen):
    """Bytes of model state (parameters, gradients, optimizer) one rank holds, by arithmetic.

    `wire_bytes`: what it keeps for the wire format, residuals of int8 and an owner's own copy of its shard; in a star
    what lies between server and worker (plan/arithmetic.py).
    """

    rank: int
    params_bytes: int
    grads_bytes: int
    optimizer_bytes: int
    wire_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.params_bytes + self.grads_bytes + self.optimizer_bytes + self.wire_bytes


class PredictedStep(Frozen):
    """Seconds of a step, by measured speeds: `compute_s` of the slowest rank, `wire_s` that all wait besides."""

    compute_s: float = Field(ge=0)
    wire_s: float = Field(ge=0)

    @property
    def step_s(self) -> float:
        """All of it."""
        return self.compute_s + self.wire_s


class Plan(Frozen):
    """Everything decided before a run starts. The same inputs give the same plan, byte for byte.

    `stages`: half-open ranges of layers in the order of stages, where the strategy splits them (mp). `replicas`: how
    many pipelines of them there are. `ca`: the SHA-256 of the certificate of the authority whose nodes are let in,
    where a link is encrypted. `predicted`: how long a step should take, where a profile of this very run tells.
    """

    schema_: int = Field(default=PLAN_SCHEMA, alias="schema", serialization_alias="schema")
    cluster: str
    run: RunSpec
    world_size: int = Field(gt=0)
    transport: Literal["smol", "gloo"]
    wire: WireFormat = "fp32"
    shape: Literal["MESH", "STAR", "CHAIN"]
    stages: tuple[tuple[int, int], ...] = ()
    replicas: int = Field(default=1, gt=0, exclude_if=lambda count: count == 1)
    global_batch: int = Field(gt=0)
    ranks: tuple[RankPlan, ...]
    params: int = Field(gt=0)
    memory: tuple[MemoryEstimate, ...]
    ca: str = ""
    # Absent where there is none: plans from before it was kept are still what their digest says.
    predicted: PredictedStep | None = Field(default=None, exclude_if=lambda step: step is None)
    notes: tuple[str, ...] = ()
    inputs: dict[str, str] = Field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Where ranks stand whose layers are split."""
        return Grid(self.world_size // self.replicas, self.replicas)

    def to_json(self) -> str:
        """The canonical text of the plan; `digest` is its hash."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def digest(self) -> str:
        """SHA-256 of the canonical text, in hex: both ends of a handshake must have the same."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


class ProfilePlan(Plan):
    """plan.json of a run of kind profile: every rank measures itself and its links, with the run's model and batch."""

    kind: Literal["profile"] = "profile"


class TabletPlan(Frozen):
    """The tablet that has a stage's layers; the stage's rank is a process on the head's machine, which hands over.

    `host` and `port`: of its app, which that process dials (native), or of the page that it serves (browser), then an
    own address, 0 any free port. `precision`: of the layers' weights. `optional`: serving goes on without it.
    """

    node: str
    app: App
    host: str
    port: int = Field(ge=0, le=65535)
    precision: TabletPrecision
    tls: bool = False
    optional: bool = False

    @property
    def format(self) -> TabletFormat:
        """Of the exported layers that it loads."""
        return TABLET_FORMATS[self.app]


class StagePlan(Frozen):
    """Layers `start` to `stop`, half-open, of a served model. `need_mb`: weights, caches and what a process costs.

    `memory_mb` is what its machine has, as far as it is known, and `speed` how fast it is beside the others: for the
    head to plan anew when a stage is lost. `tablet`: what has the layers, where that is no process of ours.
    """

    rank: int = Field(ge=0)
    start: int = Field(ge=0)
    stop: int = Field(gt=0)
    need_mb: int = Field(gt=0)
    memory_mb: int | None = None
    speed: float = Field(default=1.0, gt=0)
    tablet: TabletPlan | None = Field(default=None, exclude_if=lambda tablet: tablet is None)


class ApiPlan(Frozen):
    """The rank that people talk to. Addresses are its own; ports may be 0 for any free one.

    `listen` beyond loopback asks everybody for the key. `tls`: it speaks HTTPS with its node's certificate.
    """

    rank: int = Field(gt=0)
    listen: tuple[str, ...]
    api_port: int = Field(ge=0, le=65535)
    frontend_port: int = Field(ge=0, le=65535)
    tls: bool = False

    @property
    def asks_for_key(self) -> bool:
        """Whether somebody besides this machine can dial it."""
        return not all(map(is_loopback, self.listen))


class ServePlan(Frozen):
    """Everything decided before a model is served: plan.json of a run of kind inference. Bytes, and `ca`, as for Plan.

    `layers`: the model's. `world_size` counts the stages and the API's rank.
    """

    schema_: int = Field(default=PLAN_SCHEMA, alias="schema", serialization_alias="schema")
    kind: Literal["inference"] = "inference"
    cluster: str
    serve: ServeSpec
    layers: int = Field(gt=0)
    world_size: int = Field(gt=1)
    ranks: tuple[RankPlan, ...]
    stages: tuple[StagePlan, ...]
    api: ApiPlan
    params: int = Field(gt=0)
    ca: str = ""
    notes: tuple[str, ...] = ()
    inputs: dict[str, str] = Field(default_factory=dict)

    @property
    def tablets(self) -> dict[int, TabletPlan]:
        """By rank those of its stages."""
        return {stage.rank: stage.tablet for stage in self.stages if stage.tablet is not None}

    def machine(self, rank: int) -> str:
        """What people know a rank by: the tablet that has its layers, else the machine that its process is on."""
        tablet = self.tablets.get(rank)
        return tablet.node if tablet is not None else self.ranks[rank].node

    def to_json(self) -> str:
        """The canonical text of the plan; `digest` is its hash."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def digest(self) -> str:
        """As Plan.digest."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


# What plan.json says it is; that of a training says nothing.
KINDS: dict[str, type[Plan | ServePlan]] = {"inference": ServePlan, "profile": ProfilePlan}


def plan_of(text: str | bytes) -> Plan | ServePlan:
    """The plan that a text is, of whatever kind it says. ValueError if it is none."""
    value = json.loads(text)
    kind = KINDS.get(str(value.get("kind")), Plan) if isinstance(value, dict) else Plan
    return kind.model_validate_json(text)


class NodeConfig(Frozen):
    """One host's node.yaml. All paths are absolute on that host.

    `run_dir` is laid out as DESIGN section 7 says on every host, so that collecting is copying. `lease_s` None means
    detached: nobody has to renew anything. The secret and the data are files beside it, never values in here.
    `init_dir` holds the weights that the run starts from, on rank 0's node alone.
    `resume_from` is the folder of an earlier run, or one of its manifests: training starts from its checkpoint. It may
    be on other nodes only. A generation above 0 looks into `run_dir` first.
    For a served model: `model_dir` is its folder on this host, where a stage is; `api_key_file` holds the key, where
    the API is and asks for one; `tablet_dir` keeps the layers exported for tablets, where the head is. `certificates`
    is the folder of the node's, where a link or the API is encrypted.
    """

    schema_: int = Field(default=NODE_SCHEMA, alias="schema", serialization_alias="schema")
    run_id: str
    node: str
    generation: int = Field(ge=0)
    run_dir: str
    plan_file: str
    plan_digest: str
    secret_file: str
    data_dir: str
    init_dir: str | None = None
    python: str
    lease_s: float | None = Field(default=None, gt=0)
    ranks: tuple[int, ...]
    resume_from: str | None = None
    model_dir: str | None = None
    api_key_file: str | None = None
    tablet_dir: str | None = None
    certificates: str | None = None
