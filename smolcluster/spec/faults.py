"""Faults that a run is asked to suffer, in its cluster config. What they do is in comm/faults.py.

faults:
  - {kind: crash, rank: 1, step: 20}
  - {kind: freeze, rank: 2, step: 30, seconds: 5}
  - {kind: slow, rank: 1, step: 10, factor: 2}
  - {kind: delay, rank: 1, step: 10, until: 40, ms: 20, jitter_ms: 5}
  - {kind: throttle, rank: 1, peer: 2, step: 10, mbps: 100}
  - {kind: drop, rank: 1, peer: 0, step: 50}
  - {kind: partition, ranks: [0, 1], step: 60, seconds: 10}
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from smolcluster.spec.values import FileModel

FaultKind = Literal["crash", "freeze", "slow", "delay", "throttle", "drop", "partition"]
_NEEDS: dict[FaultKind, tuple[str, ...]] = {
    "crash": ("rank",),
    "freeze": ("rank", "seconds"),
    "slow": ("rank", "factor"),
    "delay": ("rank", "ms"),
    "throttle": ("rank", "mbps"),
    "drop": ("rank",),
    "partition": ("ranks", "seconds"),
}
_MAY_HAVE: dict[FaultKind, tuple[str, ...]] = {
    "slow": ("until",),
    "delay": ("peer", "until", "jitter_ms"),
    "throttle": ("peer", "until"),
    "drop": ("peer",),
}
_ALWAYS = ("kind", "step", "generation")


class FaultSpec(FileModel):
    """One fault. It begins when a rank is about to take step `step` (from 1) of that generation of the run.

    `until`: the first step without it; None lasts to the end. `peer` None means the links to all others.
    """

    kind: FaultKind
    step: int = Field(ge=1)
    generation: int = Field(default=0, ge=0)
    rank: int | None = Field(default=None, ge=0)
    ranks: list[int] | None = Field(default=None, min_length=1)
    peer: int | None = Field(default=None, ge=0)
    until: int | None = Field(default=None, ge=1)
    ms: float | None = Field(default=None, ge=0)
    jitter_ms: float | None = Field(default=None, ge=0)
    mbps: float | None = Field(default=None, gt=0)
    factor: float | None = Field(default=None, gt=1)
    seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> FaultSpec:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        needs, may = _NEEDS[self.kind], _MAY_HAVE.get(self.kind, ())
        lacking = [name for name in needs if name not in given]
        if lacking:
            raise ValueError(f"a {self.kind} needs {', '.join(lacking)} | add `{lacking[0]}: ...`")
        odd = sorted(given - {*_ALWAYS, *needs, *may})
        if odd:
            raise ValueError(f"a {self.kind} has no {', '.join(odd)} | it has {', '.join((*_ALWAYS, *needs, *may))}")
        if self.until is not None and self.until <= self.step:
            raise ValueError(f"until {self.until} is not after step {self.step} | until is the first step without it")
        if self.peer is not None and self.peer == self.rank:
            raise ValueError(f"rank {self.rank} has no link to itself | name another rank as peer")
        return self

    @property
    def on_links(self) -> bool:
        """Whether it is of links, not of a process."""
        return self.kind not in ("crash", "freeze", "slow")

    def touches(self, rank: int, peer: int) -> bool:
        """Whether it is of the link between these two."""
        if self.kind == "partition":
            return (rank in (self.ranks or ())) != (peer in (self.ranks or ()))
        return self.on_links and self.rank in (rank, peer) and self.peer in (None, rank, peer)

    def told(self) -> str:
        """For a note and for logs: `crash of rank 1 at step 20`."""
        who = f"ranks {', '.join(map(str, self.ranks))}" if self.ranks else f"rank {self.rank}"
        link = f" towards rank {self.peer}" if self.peer is not None else ""
        size = [f"{self.ms:g} ms" if self.ms is not None else "", f"{self.mbps:g} Mbit/s" if self.mbps else ""]
        size.append(f"by {self.factor:g}" if self.factor is not None else "")
        size.append(f"for {self.seconds:g} s" if self.seconds is not None else "")
        end = f" until step {self.until}" if self.until is not None else ""
        return " ".join(filter(None, (f"{self.kind} of {who}{link}", *size, f"at step {self.step}{end}")))
