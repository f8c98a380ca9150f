"""What one run does, completely resolved: no None that means "work it out" is left in here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from smolcluster.spec.base import Frozen
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.shape import Rope

# Of forward and backward: all in float32, or what torch.autocast does with products in the shorter type.
Precision = Literal["fp32", "bf16", "fp16"]
# How numbers look on the wire (comm/codec.py). A plan has one of these, a config may also say auto.
WireFormat = Literal["fp32", "bf16", "fp16", "int8"]
# Those whose ranks sum gradients, or what came of them; those whose ranks send them to a server (STARS) have a wire
# format too.
DATA_PARALLEL = ("classicdp", "fsdp", "diloco")
# Those whose step the plan predicts from measured speeds (plan/predict.py).
PREDICTED = ("single", "classicdp", "fsdp")
STARS = ("edp", "syncps")
STRATEGIES = ("single", "classicdp", "fsdp", "edp", "syncps", "mp", "diloco")


class LlamaBlocks(Frozen):
    """What Llama's blocks have that GPT-2's have not. `kind`: what Hugging Face calls the model's type."""

    kind: Literal["llama", "mistral", "qwen2", "qwen3"]
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    norm_eps: float = Field(gt=0)
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    rope: Rope


class GPTSpec(Frozen):
    """A decoder: GPT-2's, or where given weights are Llama's, those blocks (`llama`), which have no dropout.

    `vocab_size` is what the tokenizer should give; the data folder's meta.json decides. `max_seq_len` is the length of
    a sample; `num_positions`, as many if nobody says, what the model has positions for: weights to start from may have
    more.
    """

    type: Literal["gpt"] = "gpt"
    model_dim: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    ff_dim: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    max_seq_len: int = Field(gt=0)
    num_positions: int = Field(default=0, ge=0)
    tie_embeddings: bool = True
    vocab_size: int = Field(gt=0)
    llama: LlamaBlocks | None = None

    @model_validator(mode="before")
    @classmethod
    def _positions(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("num_positions") and "max_seq_len" in values:
            return {**values, "num_positions": values["max_seq_len"]}
        return values


class NNSpec(Frozen):
    """SimpleNN: input -> hidden, ReLU -> out."""

    type: Literal["nn"] = "nn"
    input_dim: int = Field(gt=0)
    hidden: int = Field(gt=0)
    out: int = Field(gt=0)


ModelSpec = Annotated[GPTSpec | NNSpec, Field(discriminator="type")]


class TrainingSpec(Frozen):
    """`batch_size` is per rank (samples); `max_steps` None means `epochs` passes over the data.

    `grad_accumulation` cuts a rank's samples of one step into that many micro-batches; the global batch stays the same.
    `precision` is that of forward and backward: parameters, their gradients and the optimizer are float32 always.
    """

    batch_size: int = Field(gt=0)
    epochs: int = Field(gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip_norm: float | None = Field(default=None, gt=0)
    eval_steps: int = Field(default=200, gt=0)
    grad_accumulation: int = Field(default=1, ge=1)
    track_gradients: bool = False
    polyak_alpha: float = Field(default=0.5, gt=0, le=1)
    precision: Precision = "fp32"
    activation_checkpointing: bool = False
    compile: bool = False


class ScheduleSpec(Frozen):
    """Linear warm-up over `warmup_iters` steps, then a cosine down to `min_lr` at the last step."""

    warmup_iters: int = Field(ge=0)
    min_lr: float = Field(ge=0)


class DataSpec(Frozen):
    """`dataset` is a name (pydoc, wikitext2, snli, mnist) or "text" with `path` the person's own file or folder.

    `tokenizer`: "bpe:2048" trains a byte-level BPE of that size on the corpus; a folder; or a hub id. `streaming` reads
    a dataset of the hub as it comes, and leaves no copy of it on the disk.
    """

    dataset: str
    path: str | None = None
    tokenizer: str
    streaming: bool = False


class CommSpec(Frozen):
    """How ranks talk. `buffer_mb` is per node: the chunk by which a link pipelines. `timeout_s` bounds every wait.

    `metrics_port`: where each node answers Prometheus; 0: nowhere.
    """

    transport: Literal["smol", "gloo", "auto"] = "smol"
    wire: WireFormat | Literal["auto"] = "fp32"
    encrypt: Literal["auto", "always", "never"] = "auto"
    buffer_mb: dict[str, float] = Field(default_factory=dict)
    timeout_s: float = Field(default=60.0, gt=0)
    track_network_metrics: bool = True
    metrics_log_interval: int = Field(default=50, gt=0)
    metrics_port: int = Field(default=0, ge=0, le=65535, exclude_if=lambda port: port == 0)


class RecoverySpec(Frozen):
    """What happens when a rank or its machine dies. `max_restarts`: how often a node starts its ranks again in a run.

    `elastic`: whoever has not come `elastic_wait_s` after the first of a new generation is left out of it.
    """

    max_restarts: int = Field(default=3, ge=0)
    elastic: bool = False
    elastic_wait_s: float = Field(default=60.0, gt=0)


class CheckpointSpec(Frozen):
    """When the state is saved, and how much of it is kept. `every_steps` 0: never.

    `keep` are the last so many; `keep_best` keeps the one with the lowest validation loss besides. `replicas` is on
    how many nodes each file lies.
    """

    every_steps: int = Field(default=50, ge=0)
    keep: int = Field(default=3, ge=1)
    keep_best: bool = True
    replicas: int = Field(default=1, ge=1)


class TrackingSpec(Frozen):
    """Where the metrics go when the run has ended, besides its folder. `mode`: of W&B; offline nothing leaves here."""

    tracker: Literal["none", "wandb", "tensorboard"] = "none"
    mode: Literal["offline", "online"] = "offline"


class Participant(Frozen):
    """A node of the inventory that takes part. `port` 0 means any free port. `role` is "server" in a star's centre.

    `batch_size` fixes the samples of each of its ranks; None leaves them to the plan (training.batch_size, balance).
    `dials` is the address its file says it reaches the server under: a hint, which the topology confirms or replaces.
    """

    node: str
    role: Literal["worker", "server"] = "worker"
    port: int = Field(ge=0, le=65535)
    batch_size: int | None = Field(default=None, gt=0)
    dials: str | None = None


class RunSpec(Frozen):
    """One run of one strategy. `participants` are in rank order.

    `balance` weighs the ranks of a node (default 1) when the global batch is shared out, or leaves that to measured
    speeds ("auto"); the sum does not change. `choose_nodes`: the plan takes those participants with whom a step is
    predicted to be quickest.
    `init`: the folder, on the controller, of the weights to start from; None draws them from the seed, unless a
    checkpoint is loaded. `own_vocabulary`: the model's is as large as `model` says, since it came with given weights,
    whatever the tokenizer has. `faults`: what is to be broken on purpose. `stages`: mp's half-open ranges of layers in
    the order of stages, where the file gives them; none: the plan shares the layers out. `replicas`: how many pipelines
    of them train side by side, their machines in rank order where `stages` are given. `step_timeout_s`: how long a
    stage of mp waits for one that sends nothing. `outer_*`: diloco's rounds (SGD with
    Nesterov's momentum over them).
    """

    strategy: Literal["single", "classicdp", "fsdp", "edp", "syncps", "mp", "diloco"]
    participants: tuple[Participant, ...]
    model: ModelSpec
    training: TrainingSpec
    schedule: ScheduleSpec
    data: DataSpec
    comm: CommSpec
    recovery: RecoverySpec = RecoverySpec()
    seed: int
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    balance: dict[str, float] | Literal["auto"] = Field(default_factory=dict)
    choose_nodes: bool = False
    stages: tuple[tuple[int, int], ...] = ()
    replicas: int = Field(default=1, ge=1, exclude_if=lambda count: count == 1)
    fsdp_stage: int = Field(default=1, ge=0, le=3)
    staleness_bound: int = Field(default=0, ge=0)
    worker_update_interval: int = Field(default=1, ge=1)
    use_quantization: bool = False
    max_staleness: int = Field(default=1000, ge=0)
    syncps_timeout_s: float = Field(default=0.1, gt=0)
    server_trains: bool = False
    step_timeout_s: float = Field(default=300.0, gt=0)
    outer_every: int = Field(default=20, ge=1)
    outer_lr: float = Field(default=0.7, gt=0)
    outer_momentum: float = Field(default=0.9, ge=0, lt=1)
    outer_overlap: bool = False
    outer_warmup: int = Field(default=0, ge=0)
    project_name: str
    tracking: TrackingSpec = TrackingSpec()
    init: str | None = None
    own_vocabulary: bool = False
    faults: tuple[FaultSpec, ...] = ()
