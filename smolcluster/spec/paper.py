"""configs/machines.yaml: machines and wires as their makers describe them, for clusters that are only on paper."""

from __future__ import annotations

from pydantic import Field

from smolcluster.spec.values import FileModel


class PaperMachine(FileModel):
    """One kind of machine: operations and bytes a second at best, memory, its fastest wire, and who says so."""

    flops: float = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    memory_mb: int = Field(gt=0)
    wire: str
    source: str = Field(min_length=1)


class PaperWire(FileModel):
    """One kind of wire. `shared`: all machines on it together have its speed."""

    mbps: float = Field(gt=0)
    rtt_ms: float = Field(ge=0)
    shared: bool = False
    source: str = Field(min_length=1)


class Assumed(FileModel):
    """What part of its best a machine is taken to reach."""

    flops_share: float = Field(gt=0, le=1)
    bandwidth_share: float = Field(gt=0, le=1)


class MachinesTable(FileModel):
    """The whole file."""

    machines: dict[str, PaperMachine]
    wires: dict[str, PaperWire]
    assumed: Assumed
