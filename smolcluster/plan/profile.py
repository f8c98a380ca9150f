"""profile.json: how fast the machines and the wires between them were measured to be, and how.

Values; no files, no torch.

A person may write `speeds` alone, in any unit they share: they weigh shares and layers. What was measured says besides
on which model and batch, so that a profile of another one is recognised.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from smolcluster.plan.decoding import DecodePace
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.run import GPTSpec, ModelSpec, Precision, RunSpec

PROFILE_SCHEMA = 1
Speed = Annotated[float, Field(gt=0)]
# How one trains, not how long a step takes; what the data decide; what positions nobody uses.
_NO_MATTER = ("dropout", "vocab_size", "num_positions")


class LinkSpeed(Frozen):
    """From one machine to another, over the wire that the plan takes: `mbps` that way, `rtt_ms` there and back, while
    all computed; `idle_*` while nobody did, as when a step waits for the wire.
    """

    src: str
    dst: str
    mbps: Speed
    rtt_ms: float = Field(ge=0)
    idle_mbps: Speed | None = None
    idle_rtt_ms: float | None = Field(default=None, ge=0)


class NodeMeasure(Frozen):
    """One machine as it was measured. `update_s`: of a rank's step, what the optimizer takes whatever the batch is;
    `pass_s`: of a micro-batch, what forward and backward take however few samples are in it (0: nobody measured it).

    `decode`: how fast it computes the layers of the same model when that is served; None where nobody measured it.
    """

    ranks: int = Field(gt=0)
    update_s: float = Field(ge=0)
    pass_s: float = Field(default=0.0, ge=0)
    device: str
    threads: int = Field(gt=0)
    versions: dict[str, str]
    decode: DecodePace | None = None


class Measured(Frozen):
    """What a profile was measured on. `date` in UTC; `batch_size` samples of each rank a step."""

    date: str
    cluster: str
    model: ModelSpec
    batch_size: int = Field(gt=0)
    precision: Precision
    activation_checkpointing: bool
    # Thin micro-batches make slow products.
    grad_accumulation: int = Field(default=1, gt=0)
    compile: bool
    nodes: dict[str, NodeMeasure]


class Profile(Frozen):
    """profile.json. `speeds`: of each machine, all its ranks together, tokens (pictures: samples) a second where it was
    measured, else any unit they share.
    """

    schema_: int = Field(default=PROFILE_SCHEMA, alias="schema", serialization_alias="schema")
    speeds: dict[str, Speed]
    links: tuple[LinkSpeed, ...] = ()
    measured: Measured | None = None

    def link(self, src: str, dst: str) -> LinkSpeed | None:
        """What was measured from one machine to another; None where nothing was."""
        return self._by_ends.get((src, dst))

    @cached_property
    def _by_ends(self) -> dict[tuple[str, str], LinkSpeed]:
        # Backwards: of two of the same ends the first counts.
        return {(link.src, link.dst): link for link in reversed(self.links)}

    @property
    def told(self) -> str:
        """For notes: where the numbers are from."""
        return f"profile.json of {self.measured.date[:10]}" if self.measured is not None else "profile.json"


def differences(profile: Profile, cluster: ClusterSpec, run: RunSpec) -> list[str]:
    """What was measured that this run is not, a few words each. Empty for a profile of this run.

    A machine that was not measured is none: whoever needs its speed says so.
    """
    measured = profile.measured
    if measured is None:
        return ["its speeds were written by hand"]
    training = run.training
    pairs: list[tuple[str, Any, Any]] = [
        ("cluster", measured.cluster, cluster.name),
        ("batch_size", measured.batch_size, training.batch_size),
        ("precision", measured.precision, training.precision),
        ("activation_checkpointing", measured.activation_checkpointing, training.activation_checkpointing),
        ("grad_accumulation", measured.grad_accumulation, training.grad_accumulation),
        ("compile", measured.compile, training.compile),
    ]
    said = _other_model(measured.model, run.model)
    said += [f"{name} {was}, here {is_now}" for name, was, is_now in pairs if was != is_now]
    for participant in run.participants:
        node, was = cluster.node(participant.node), measured.nodes.get(participant.node)
        if was is not None and was.ranks != node.ranks:
            said.append(f"{node.name} with {was.ranks} rank(s), here {node.ranks}")
    return said


def _other_model(was: ModelSpec, now: ModelSpec) -> list[str]:
    if was.type != now.type:
        return [f"model {was.type}, here {now.type}"]
    old, new = was.model_dump(), now.model_dump()
    return [f"model.{key} {old[key]}, here {new[key]}" for key in old if key not in _NO_MATTER and old[key] != new[key]]


def tokens_per_sample(model: ModelSpec) -> int:
    """What `speeds` counts of a sample: a text's tokens, a picture as one."""
    return model.max_seq_len if isinstance(model, GPTSpec) else 1


def unmeasured(profile: Profile, run: RunSpec) -> list[str]:
    """The participants that compute gradients, and that a profile has no speed of."""
    compute = [each.node for each in run.participants if each.role != "server" or run.server_trains]
    return [node for node in compute if node not in profile.speeds]


def asks_for_speeds(run: RunSpec) -> list[str]:
    """The keys of this run that leave something to measured speeds."""
    shares = run.strategy != "single" and not run.stages
    keys = {"nodes": run.choose_nodes, "balance": shares and run.balance == "auto", "wire": run.comm.wire == "auto"}
    return [key for key, asked in keys.items() if asked]


def concerns(profile: Profile, cluster: ClusterSpec, run: RunSpec) -> bool:
    """Whether a plan of this run has to do with the profile: something is left to it, or it is of this very run.

    Who says nothing of mp's layers leaves them to the speeds there are.
    """
    layers = run.strategy == "mp" and not run.stages and not run.balance
    return bool(asks_for_speeds(run)) or layers or not (differences(profile, cluster, run) or unmeasured(profile, run))
