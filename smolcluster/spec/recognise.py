"""Which of our files is this? Told from its keys, so that a file passed to the wrong flag can be named."""

from __future__ import annotations

from typing import Any

from smolcluster.errors import Problem
from smolcluster.spec.clusterfile import CLUSTER_FILES
from smolcluster.spec.document import Document, Tree
from smolcluster.spec.modelfile import GPTSection, NNSection

_NN_FLAT = {"num_epochs", "batch_size", "learning_rate", "dataset"}
_SHARED_SECTIONS = {"training", "lr_schedule", "data", "logging", "gradient_clipping", "model"}

# kind -> what it is called, and how it is passed
KINDS: dict[str, tuple[str, str]] = {
    "inventory": ("an inventory", "-i / --inventory"),
    "gpt": ("a GPT training config", "--config (with --model gpt)"),
    "nn": ("a SimpleNN training config", "--config (with --model nn)"),
    "model": ("a training config", "--config"),
    "served": ("the inference model config", "inventory/configs/model_config_inference.yaml"),
    "weights": ("the table of model weights", "inventory/configs/model_weights.yaml"),
    **{s: (f"a cluster config of {s}", f"--cluster-config (with --strategy {s})") for s in CLUSTER_FILES},
}


def recognise(tree: Tree) -> str | None:
    """The kind of file (a key of KINDS), or None when its keys tell nothing."""
    keys = set(tree)
    if keys & {"machines", "networks"}:
        return "inventory"
    return _cluster_kind(keys) or _model_kind(tree) or _table_kind(list(tree.values()))


def _cluster_kind(keys: set[str]) -> str | None:
    if "fsdp_stage" in keys:
        return "fsdp"
    if any(key.startswith("outer_") for key in keys):
        return "diloco"
    if keys & {"allToAllTopology", "staleness_bound"}:
        return "classicdp"
    if "web_interface" in keys or (keys >= {"host_ip", "server"} and "buffer_size" in keys and "workers" not in keys):
        return "inference"
    if keys & {"worker_update_interval", "use_quantization", "server_trains"}:
        return "syncps" if keys & {"timeout", "server_trains"} else "edp"
    if keys & {"host_ip", "server", "workers", "stages"}:
        return "mp"
    return None


def _model_kind(tree: Tree) -> str | None:
    model = tree.get("model")
    model_keys = set(model) if isinstance(model, dict) else set()
    if model_keys & set(NNSection.model_fields):
        return "nn"
    if model_keys & set(GPTSection.model_fields):
        return "gpt"
    if set(tree) & _NN_FLAT:
        return "nn"
    return "model" if set(tree) & _SHARED_SECTIONS else None


def _table_kind(entries: list[Any]) -> str | None:
    for kind, sign in (("served", "hf_model_name"), ("weights", "source")):
        if any(isinstance(entry, dict) and sign in entry for entry in entries):
            return kind
    return None


def wrong_file(document: Document, wanted: str, flag: str, known: set[str]) -> Problem | None:
    """The Problem of a file that is another kind than the flag wants; None when it may be the right one.

    A file whose keys are all `known` to the wanted kind is fine, whatever else it could be.
    """
    found = recognise(document.data)
    if found is None or found == wanted or (found == "model" and wanted in ("gpt", "nn")):
        return None
    model_mixed_up = found in ("gpt", "nn") and wanted in ("gpt", "nn")
    if set(document.data) <= known and not model_mixed_up:
        return None
    what = f"{flag} wants {KINDS[wanted][0]}, but this is {KINDS[found][0]}"
    return Problem(document.file, 0, "", what, f"pass it as {KINDS[found][1]}")
