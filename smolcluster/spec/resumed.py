"""A run that is resumed: its settings as a layer of the new one's, so that `resume` alone goes on with what it did.

They lie above what every run shares (shipped files, overlays, an inventory's defaults) and below what was said for the
new run. Taken are model, data, training, checkpoints, seed and restarts, and the strategy's own keys where the strategy
stays; machines, ports and wires, their format too, are those of the cluster as it is now. Faults are never taken: what
was broken on purpose once goes on whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolcluster.spec.document import Document, Tree, display
from smolcluster.spec.run import GPTSpec, ModelSpec, RunSpec

# Of the strategy's own file.
_OF_STRATEGY = {
    "fsdp": ("fsdp_stage", "staleness_bound"),
    "classicdp": ("staleness_bound",),
    "mp": ("replicas",),
    "diloco": ("outer_every", "outer_lr", "outer_momentum", "outer_overlap", "outer_warmup"),
}
# What a GPT's file does not say: it follows from max_seq_len, or from weights that were given once.
_DERIVED = frozenset({"type", "num_positions", "llama"})


@dataclass(frozen=True)
class Earlier:
    """The run that is resumed, as its plan.json has it."""

    file: Path
    sha256: str
    run: RunSpec

    @property
    def own_vocabulary(self) -> bool:
        """Whether its model's vocabulary is that of weights it once started from."""
        return self.run.own_vocabulary or self.run.init is not None


def model_layer(earlier: Earlier) -> Document:
    """What it said of model, data and training, as a file of that model says it."""
    run = earlier.run
    training = run.training.model_dump()
    rate, norm = training["learning_rate"], training.pop("grad_clip_norm")
    tree: Tree = {
        "model": _model(run.model),
        "training": training,
        "gradient_clipping": {"enabled": norm is not None, "max_norm": norm},
        # The same rate throughout is said by no rate at the end, so that another learning_rate can be said alone.
        "lr_schedule": {
            "warmup_iters": run.schedule.warmup_iters,
            "min_lr": None if run.schedule.min_lr == rate else run.schedule.min_lr,
        },
        "data": run.data.model_dump(),
        "checkpoint": run.checkpoint.model_dump(),
        "logging": {"project_name": run.project_name, **run.tracking.model_dump()},
    }
    return Document(display(earlier.file), tree, {})


def cluster_layer(earlier: Earlier, strategy: str) -> Document:
    """What it said of the cluster's file and a resumed run keeps."""
    run = earlier.run
    recovery = run.recovery
    tree: Tree = {
        "seed": run.seed,
        "recovery": {
            "max_restarts": recovery.max_restarts,
            "elastic": recovery.elastic,
            "elastic_wait": recovery.elastic_wait_s,
        },
    }
    if strategy == run.strategy:
        tree |= {key: getattr(run, key) for key in _OF_STRATEGY.get(strategy, ())}
    return Document(display(earlier.file), tree, {})


def continued(model: ModelSpec, earlier: Earlier) -> ModelSpec:
    """The model with the earlier run's blocks and as many positions, which came from given weights perhaps."""
    before = earlier.run.model
    if not isinstance(model, GPTSpec) or not isinstance(before, GPTSpec):
        return model
    enough = model.max_seq_len <= before.num_positions
    positions = before.num_positions if enough else model.num_positions
    return model.model_copy(update={"llama": before.llama, "num_positions": positions})


def taken(earlier: Earlier) -> str:
    """What a person is told of it."""
    what = "model, data, training, checkpoints, seed and restarts"
    return f"{what} are taken from {display(earlier.file)}, where nothing else was said for this run"


def _model(spec: ModelSpec) -> dict[str, Any]:
    if isinstance(spec, GPTSpec):
        return {key: value for key, value in spec.model_dump().items() if key not in _DERIVED}
    return {**spec.model_dump(), "type": "SimpleNN"}
