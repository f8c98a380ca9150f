"""What one rank of one run knows: made once by the worker, frozen, and handed to everything that needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

import torch

from smolcluster.plan.types import Plan, RankPlan
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import RunSpec


class ByteCounts(Protocol):
    """Bytes of this process so far, payload and headers, counted on its sockets."""

    @property
    def bytes_out(self) -> int:
        """Sent."""
        ...

    @property
    def bytes_in(self) -> int:
        """Received."""
        ...


class LinkState(Protocol):
    """One link as this rank sees it: what comm.LinkStats holds, which has the meanings."""

    @property
    def peer(self) -> int:
        """The rank at the other end."""
        ...

    @property
    def address(self) -> str:
        """Where it leads."""
        ...

    @property
    def seconds(self) -> float:
        """Since the last look."""
        ...

    @property
    def bytes_out(self) -> int:
        """Sent since the last look."""
        ...

    @property
    def bytes_in(self) -> int:
        """Received since the last look."""
        ...

    @property
    def mbps(self) -> float:
        """Both of these, megabits per second."""
        ...

    @property
    def rtt_ms(self) -> float | None:
        """Round trip, milliseconds."""
        ...

    @property
    def rtt_by(self) -> Literal["ping", "kernel"] | None:
        """Who measured it."""
        ...

    @property
    def buffered(self) -> int | None:
        """Bytes that wait to be sent, or to be acknowledged."""
        ...

    @property
    def unread(self) -> int | None:
        """Bytes that have come and wait to be read."""
        ...


class NoteBoard(Protocol):
    """The run's store, for what ranks tell each other beside the collectives, from any thread. Waits have deadlines."""

    def set(self, key: str, value: str | bytes) -> None:
        """Set a key."""
        ...

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there. DeadlineError."""
        ...

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Wait for all keys, then their values."""
        ...

    def delete_key(self, key: str) -> bool:
        """Delete a key; whether it was there."""
        ...


class Wires(Protocol):
    """The part of comm.Fabric that runtime and train look at. Tensors travel through torch.distributed instead."""

    @property
    def store(self) -> NoteBoard | None:
        """The store that all ranks share; None for a rank alone."""
        ...

    def begin_step(self, step: int) -> None:
        """This rank is about to take a step."""
        ...

    def slowed(self, compute_s: float, stop: Callable[[], bool], /) -> float:
        """This rank has computed so long; how long it then waited to be as slow as it is asked to be."""
        ...

    def check(self) -> None:
        """PeerError if the run is known to have failed."""
        ...

    def counters(self) -> ByteCounts:
        """Bytes of this process so far."""
        ...

    def links(self) -> tuple[LinkState, ...]:
        """Every link of this rank."""
        ...


@dataclass(frozen=True)
class NoBytes:
    """The counts of a process that talks to nobody."""

    bytes_out: int = 0
    bytes_in: int = 0


class Alone:
    """The wires of a run of one rank: none."""

    store = None

    def begin_step(self, step: int) -> None:
        """Nothing begins at one."""

    def slowed(self, _compute_s: float, _stop: Callable[[], bool]) -> float:
        """Not at all."""
        return 0.0

    def check(self) -> None:
        """Nobody else can fail."""

    def counters(self) -> NoBytes:
        """Nothing ever."""
        return NoBytes()

    def links(self) -> tuple[LinkState, ...]:
        """None."""
        return ()


@dataclass(frozen=True)
class RunContext:
    """One rank's view of its run.

    `device` is a real device, never "auto". `data_dir` holds train.bin, val.bin, meta.json and tokenizer.json,
    `init_dir` the weights to start from, where they are.
    `resume_from` is an earlier run's folder, or one of its manifests.
    """

    run_id: str
    generation: int
    plan: Plan
    me: RankPlan
    device: torch.device
    folder: RunFolder
    data_dir: Path
    wires: Wires
    init_dir: Path | None = None
    resume_from: Path | None = None
    home: int | None = None

    @property
    def seat(self) -> int:
        """The number under which this process keeps its log, metrics and result: its rank in the run's whole plan."""
        return self.rank if self.home is None else self.home

    @property
    def run(self) -> RunSpec:
        """What the run does."""
        return self.plan.run

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.me.rank

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self.plan.world_size

    def node_of(self, rank: int) -> str:
        """The name of the machine that holds that rank."""
        return self.plan.ranks[rank].node
