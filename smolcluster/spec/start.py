"""A model that starts from given weights: their shape, more positions than a sample is long, what may not differ."""

from __future__ import annotations

from smolcluster.errors import Problem
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.pretrained import Pretrained
from smolcluster.spec.run import GPTSpec

# What the weights decide. dropout is none of it: it is how one trains, not what one has;
# Llama's kin were made without.
SHAPE = ("model_dim", "num_layers", "num_heads", "ff_dim", "tie_embeddings", "vocab_size")
_LENGTH: KeyPath = ("model", "max_seq_len")


def started(model: GPTSpec, start: Pretrained, origin: Merged, problems: list[Problem], notes: list[str]) -> GPTSpec:
    """The model as the weights are. What was said for this run and contradicts them is a Problem."""
    theirs = start.spec
    for key in SHAPE:
        said, real = getattr(model, key), getattr(theirs, key)
        if said != real:
            what = f"{said} was asked for, and the weights to start from have {real}"
            problems.append(origin.problem(("model", key), what, "leave it away, or leave --init away"))
    length = min(model.max_seq_len, theirs.num_positions)
    if length < model.max_seq_len:
        what = f"{model.max_seq_len} was asked for, and the weights to start from have positions for {length}"
        if origin.below(_LENGTH, ("model", SHAPE[0])):
            notes.append(origin.note(_LENGTH, model.max_seq_len, str(length), what))
        else:
            problems.append(origin.problem(_LENGTH, what, f"use at most {length}"))
    tokenizer = ", and their tokenizer" if start.tokenizer else "; they bring no tokenizer"
    notes.append(
        f"--init {start.folder}: the model's shape is that of the weights ({theirs.num_layers} layers of "
        f"{theirs.model_dim}, {theirs.num_heads} heads, vocabulary {theirs.vocab_size}, {theirs.num_positions} "
        f"positions){tokenizer}; samples are {length} tokens long"
    )
    taken = {"max_seq_len": length, "num_positions": theirs.num_positions, "llama": theirs.llama}
    return model.model_copy(update=taken if theirs.llama is None else {**taken, "dropout": 0.0})
