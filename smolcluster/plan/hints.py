"""What a person should know of a run's options on these machines before it starts. The worker has the last word."""

from __future__ import annotations

from collections.abc import Iterable

from smolcluster.spec.cluster import Node
from smolcluster.spec.machines import is_raspberry_pi
from smolcluster.spec.problems import listed
from smolcluster.spec.run import STARS, NNSpec, RunSpec

# diloco's rounds are long enough from here on that an average which comes one later does no harm.
OVERLAP_EVERY = 20


def option_notes(run: RunSpec, nodes: Iterable[Node]) -> list[str]:
    """Notes on precision, recomputing, compiling, copies of checkpoints, and going on without a lost node."""
    training, nodes = run.training, tuple(nodes)
    notes = []
    star = run.strategy in STARS
    if star and run.comm.transport == "gloo":
        notes.append(f"transport gloo: server and workers of {run.strategy} talk over our own links, so smol was taken")
    if star and run.recovery.elastic:
        notes.append(f"recovery.elastic: workers of {run.strategy} come and go anyway, so this does nothing")
    if star and run.checkpoint.replicas > 1:
        notes.append(
            f"checkpoint.replicas {run.checkpoint.replicas}: the server of {run.strategy} holds all of a checkpoint, "
            "so this does nothing"
        )
    # diloco's ranks go on from their own memory.
    needs_copies = run.recovery.elastic and not star and run.strategy != "diloco"
    if needs_copies and run.checkpoint.replicas < 2 and len({node.name for node in nodes}) > 1:
        notes.append(
            "elastic: a lost node's pieces of the checkpoint are lost with it, and the others need them to go on; "
            "-e replicate_checkpoints=2 keeps another copy of each"
        )
    count = len({node.name for node in nodes})
    if not star and run.checkpoint.replicas > max(1, count):
        notes.append(
            f"checkpoint.replicas {run.checkpoint.replicas}: there are {count} nodes, so each file lies on {count}"
        )
    if run.strategy == "diloco" and run.outer_overlap and run.outer_every < OVERLAP_EVERY and run.outer_momentum > 0.5:
        notes.append(
            f"outer_overlap with rounds of {run.outer_every} step{'s' if run.outer_every > 1 else ''}: what comes a "
            f"round late overshoots with outer_momentum {run.outer_momentum:g}; write 0.5, or longer rounds"
        )
    slow = dict.fromkeys(n.name for n in nodes if n.device == "cpu" or is_raspberry_pi(n.name, n.kind))
    if training.precision != "fp32" and slow:
        notes.append(
            f"training.precision {training.precision}: {listed(slow)} compute on the CPU, where that saves memory "
            "and is seldom faster"
        )
    if isinstance(run.model, NNSpec):
        keys = {"activation_checkpointing": training.activation_checkpointing, "compile": training.compile}
        notes += [f"training.{key}: SimpleNN has no blocks, so this does nothing" for key, on in keys.items() if on]
    elif training.compile:
        notes.append(
            "training.compile: every machine needs a C++ compiler; the first step waits for it, "
            "on a small machine minutes"
        )
    return notes
