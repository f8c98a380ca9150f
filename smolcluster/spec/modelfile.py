"""What is trained (gpt_config.yaml, nn_config.yaml) and served (model_config_inference.yaml, model_weights.yaml).

A key that is None in a training file was left to be worked out, as documentation/configuration.md says.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from smolcluster.spec.run import Precision
from smolcluster.spec.values import FileModel


class ClippingSection(FileModel):
    """`gradient_clipping`; `training.grad_clip_norm` is the same setting in one number."""

    enabled: bool | None = None
    max_norm: float | None = Field(default=None, gt=0)


class TrainingSection(FileModel):
    """`training:`. batch_size and epochs are worked out when null."""

    batch_size: int | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=6e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip_norm: float | None = Field(default=None, gt=0)
    eval_steps: int = Field(default=200, gt=0)
    grad_accumulation: int = Field(default=1, ge=1)
    track_gradients: bool = False
    polyak_alpha: float = Field(default=0.5, gt=0, le=1)
    precision: Precision = "fp32"
    activation_checkpointing: bool = False
    compile: bool = False


class ScheduleSection(FileModel):
    """`lr_schedule:`. min_lr null is a constant rate after the warm-up."""

    warmup_iters: int = Field(default=0, ge=0)
    min_lr: float | None = Field(default=None, ge=0)


class DataSection(FileModel):
    """`data:`. dataset is a name or the path of the person's own text."""

    dataset: str = Field(default="wikitext2", min_length=1)
    path: str | None = Field(default=None, min_length=1)
    tokenizer: str = Field(default="openai-community/gpt2", min_length=1)
    streaming: bool = False


class CheckpointSection(FileModel):
    """`checkpoint:`. every_steps 0 saves nothing."""

    every_steps: int = Field(default=50, ge=0)
    keep: int = Field(default=3, ge=1)
    keep_best: bool = True
    replicas: int = Field(default=1, ge=1)


class LoggingSection(FileModel):
    """`logging:`. project_name null is smolcluster-<model>-<dataset>."""

    project_name: str | None = Field(default=None, min_length=1)
    tracker: Literal["none", "wandb", "tensorboard"] = "none"
    mode: Literal["offline", "online"] = "offline"


class TrainedModelFile(FileModel):
    """What both training files share, and what an inventory's `defaults` or a flag may say of either."""

    training: TrainingSection = Field(default_factory=TrainingSection)
    gradient_clipping: ClippingSection = Field(default_factory=ClippingSection)
    lr_schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    data: DataSection = Field(default_factory=DataSection)
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)
    logging: LoggingSection = Field(default_factory=LoggingSection)


class GPTSection(FileModel):
    """`model:` of gpt_config.yaml. vocab_size null follows the tokenizer."""

    model_dim: int = Field(default=256, gt=0)
    num_layers: int = Field(default=6, gt=0)
    num_heads: int = Field(default=4, gt=0)
    ff_dim: int = Field(default=1024, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    max_seq_len: int = Field(default=128, gt=0)
    tie_embeddings: bool = True
    vocab_size: int | None = Field(default=None, gt=0)


class GPTFile(TrainedModelFile):
    """gpt_config.yaml."""

    model: GPTSection = Field(default_factory=GPTSection)


class NNSection(FileModel):
    """`model:` of nn_config.yaml."""

    type: Literal["SimpleNN"] = "SimpleNN"
    input_dim: int = Field(default=784, gt=0)
    hidden: int = Field(default=128, gt=0)
    out: int = Field(default=10, gt=0)


class DatasetSection(FileModel):
    """`dataset:` of nn_config.yaml."""

    name: str | None = Field(default=None, min_length=1)


class NNFile(TrainedModelFile):
    """nn_config.yaml. Its flat keys are read as the sections' ones: batch_size is training.batch_size."""

    batch_size: int | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    num_epochs: int | None = Field(default=None, gt=0)
    eval_steps: int | None = Field(default=None, gt=0)
    track_gradients: bool | None = None
    polyak_alpha: float | None = Field(default=None, gt=0, le=1)
    dataset: DatasetSection = Field(default_factory=DatasetSection)
    model: NNSection = Field(default_factory=NNSection)


MODEL_FILES: dict[str, type[TrainedModelFile]] = {"gpt": GPTFile, "nn": NNFile}


class Decoding(FileModel):
    """One entry of `decoding_strategies`."""

    temperature: float = Field(default=1.0, gt=0)
    p: float | None = Field(default=None, gt=0, le=1)
    k: int | None = Field(default=None, gt=0)


class ServedModel(FileModel):
    """One entry of model_config_inference.yaml."""

    hf_model_name: str
    weights_model_name: str
    num_nodes: int | None = Field(default=None, gt=0)
    num_layers: int = Field(gt=0)
    max_new_tokens: int = Field(default=256, gt=0)
    ctx_length: int = Field(default=1024, gt=0)
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    active_decoding_strategy: Literal["greedy", "sampling", "top_p", "top_k"] = "top_k"
    decoding_strategies: dict[Literal["greedy", "sampling", "top_p", "top_k"], Decoding] = Field(default_factory=dict)


class Weights(FileModel):
    """One entry of model_weights.yaml: where the files come from, their SHA-256, the licence.

    A location in a package is a model folder, `package/path/in/it`; to serve, it may be a GGUF file. `package`: such a
    file, for where the hub's files are not.
    """

    source: Literal["hub", "package", "path"]
    location: str = Field(min_length=1)
    files: dict[str, str | None] = Field(min_length=1)
    licence: str = Field(min_length=1)
    package: str | None = Field(default=None, min_length=1)
