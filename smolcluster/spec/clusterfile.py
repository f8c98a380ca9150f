"""cluster_config_<strategy>.yaml: who takes part and how. One model per strategy, every key of the user's guide.

A key that is None was not given. The names of machines may be left out everywhere: then the inventory decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import WireFormat
from smolcluster.spec.values import Address, FileModel, MachineName, Port, PortMap

AUTO = "auto"


def _balance(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    if value == AUTO:
        return value
    if not isinstance(value, dict) and value != "even":
        raise ValueError(f'must be even, auto or a section, not "{value}" | write even, auto or {{mini1: 2, pi5: 1}}')
    return check({} if value == "even" else value)


def _nodes(value: Any) -> Any:
    """`auto` is a list of one word: --nodes auto says the same."""
    return [AUTO] if value == AUTO else value


Weight = Annotated[float, Field(gt=0)]
if TYPE_CHECKING:
    Balance = dict[str, float] | Literal["auto"]
else:  # not a union: a bad weight would be told twice, once for each of its members
    Balance = Annotated[dict[str, Weight], WrapValidator(_balance)]


def _names(value: Any) -> Any:
    """`ipad` or `ipad,ipad2`, as a flag says it, is a list too."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Nodes = Annotated[Annotated[list[MachineName], Field(min_length=1)] | None, BeforeValidator(_nodes)]


class RecoveryFile(FileModel):
    """`recovery`: what happens when a rank or its machine dies. `elastic_wait` is in seconds."""

    max_restarts: int = Field(default=3, ge=0)
    elastic: bool = False
    elastic_wait: float = Field(default=60.0, gt=0)


class CommonFile(FileModel):
    """Keys that every strategy has. `nodes` picks machines; `balance` weighs their shares of a batch. Either may be
    left to measured speeds: auto.

    `faults` breaks the run on purpose (spec/faults.py), for tests of how it is borne.
    """

    seed: int = 42
    nodes: Nodes = None
    port: PortMap | None = None
    buffer_size: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    track_network_metrics: bool = True
    metrics_log_interval: int = Field(default=50, gt=0)
    metrics_port: int = Field(default=0, ge=0, le=65535)
    num_workers: int | None = Field(default=None, ge=0)
    transport: Literal["smol", "gloo", "auto"] = "smol"
    wire: WireFormat | Literal["auto"] = "fp32"
    encrypt: Literal["auto", "always", "never"] = "auto"
    peer_timeout: float = Field(default=60.0, gt=0)
    balance: Balance = Field(default_factory=dict)
    recovery: RecoveryFile = Field(default_factory=RecoveryFile)
    faults: list[FaultSpec] = Field(default_factory=list)


class SingleFile(CommonFile):
    """One rank, no communication. There is no shipped file: the common keys, from the inventory's defaults or flags."""


class MeshWorker(FileModel):
    """One rank of `allToAllTopology`."""

    hostname: MachineName
    rank: int = Field(ge=0)
    port: Port | None = None
    ip: Address | None = None


class MeshWorkers(FileModel):
    """The list of ranks."""

    regular: list[MeshWorker] = Field(min_length=1)


class MeshTopology(FileModel):
    """`allToAllTopology`: every rank talks to every other."""

    workers: MeshWorkers


class MeshFile(CommonFile):
    """What the files share whose ranks all talk to each other."""

    allToAllTopology: MeshTopology | None = None
    num_nodes: int | None = Field(default=None, gt=0)
    num_layers: int | None = Field(default=None, gt=0)
    model_name: str | None = None


class ClassicdpFile(MeshFile):
    """cluster_config_classicdp.yaml."""

    staleness_bound: int = Field(default=0, ge=0)


class FsdpFile(ClassicdpFile):
    """cluster_config_fsdp.yaml."""

    fsdp_stage: int = Field(default=1, ge=0, le=3)


class DilocoFile(MeshFile):
    """cluster_config_diloco.yaml. `outer_every`: the most steps of its own a rank takes in a round; `outer_overlap`:
    what came of them travels during the next one; `outer_warmup`: so many steps of the run are rounds of one step.
    """

    outer_every: int = Field(default=20, ge=1)
    outer_lr: float = Field(default=0.7, gt=0)
    outer_momentum: float = Field(default=0.9, ge=0, lt=1)
    outer_overlap: bool = False
    outer_warmup: int = Field(default=40, ge=0)


class HostsFile(CommonFile):
    """What the files with a server share. `host_ip` means something else in each."""

    host_ip: dict[str, Address] = Field(default_factory=dict)
    workers: list[MachineName] | None = Field(default=None, min_length=1)
    server: MachineName | None = None


class EdpFile(HostsFile):
    """cluster_config_edp.yaml. `max_staleness`: a gradient that more updates of others came before is refused."""

    worker_update_interval: int = Field(default=10, ge=1)
    use_quantization: bool = False
    max_staleness: int = Field(default=1000, ge=0)


class SyncpsFile(EdpFile):
    """cluster_config_syncps.yaml: edp's keys, the server's patience in seconds, whether it computes gradients too."""

    worker_update_interval: int = Field(default=4, ge=1)
    timeout: float = Field(default=0.1, gt=0)
    server_trains: bool = False


def _layers(value: str) -> str:
    if not re.fullmatch(r"[0-9]+:[0-9]+", value):
        raise ValueError(f'must be a range of layers, not "{value}" | write "0:4" for layers 0 to 3')
    return value


def _hosts(value: Any) -> Any:
    """A lone machine is a list of one."""
    return value if isinstance(value, list) else [value]


class StageEntry(FileModel):
    """One machine of `stages` and its layers, half-open: `{host: mini1, layers: "0:4"}`. Several machines,
    `host: [mini1, pi5]`, hold the same layers, each in a pipeline of its own (mp).
    """

    host: Annotated[list[MachineName], Field(min_length=1), BeforeValidator(_hosts)]
    layers: Annotated[str, AfterValidator(_layers)]


class MpFile(HostsFile):
    """cluster_config_mp.yaml: for training and for inference. `timeout` bounds a request and a step, in seconds.

    `replicas`: how many pipelines train side by side; None: as many as `stages` names machines for the same layers.
    """

    timeout: float = Field(default=300.0, gt=0)
    stages: list[StageEntry] | None = Field(default=None, min_length=1)
    replicas: int | None = Field(default=None, ge=1)
    num_layers: int | None = Field(default=None, gt=0)
    model_name: str | None = None


def _listen(value: Any) -> Any:
    if value == "loopback":
        return ["127.0.0.1"]
    if not isinstance(value, list):
        raise ValueError(f'must be loopback or a list of addresses, not "{value}" | write loopback, or [192.168.1.20]')
    return value


class WebInterface(FileModel):
    """Where page and API of the chat are served. `host` is a machine; None: the controller, or where rank 0 is.

    `listen` are the machine's own addresses, or `loopback`.
    """

    api_port: Port = 8080
    frontend_port: Port = 5050
    host: MachineName | None = None
    listen: Annotated[list[Address], Field(min_length=1), BeforeValidator(_listen)] = Field(
        default_factory=lambda: ["127.0.0.1"]
    )


class InferenceFile(HostsFile):
    """cluster_config_inference.yaml. `model_name`: what is served where no flag says it; `num_layers` is compared.

    `rejoin_wait`: seconds a lost stage is waited for before the others share its layers. `resume_wait`: seconds an
    answer of a chat goes on with nobody listening. `replicas` is for training: a model is served by one pipeline.
    `tablet_wait`: seconds a tablet is waited for, at the start and when it was lost; `optional`: tablets that serving
    goes on without.
    """

    model_name: str | None = Field(default=None, min_length=1)
    num_layers: int | None = Field(default=None, gt=0)
    web_interface: WebInterface = Field(default_factory=WebInterface)
    stages: list[StageEntry] | None = Field(default=None, min_length=1)
    replicas: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    request_timeout: float = Field(default=300.0, gt=0)
    rejoin_wait: float = Field(default=15.0, ge=0)
    resume_wait: float = Field(default=20.0, ge=0)
    tablet_wait: float = Field(default=120.0, gt=0)
    optional: Annotated[list[MachineName], BeforeValidator(_names)] = Field(default_factory=list)


CLUSTER_FILES: dict[str, type[CommonFile]] = {
    "single": SingleFile,
    "classicdp": ClassicdpFile,
    "fsdp": FsdpFile,
    "diloco": DilocoFile,
    "edp": EdpFile,
    "syncps": SyncpsFile,
    "mp": MpFile,
    "inference": InferenceFile,
}
