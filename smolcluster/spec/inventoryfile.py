"""`*.smol.yml`: the machines a person owns and the wires between them. THE file a person edits."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from smolcluster.spec.cluster import App, Connection, Device, Kind, Medium, TabletPrecision
from smolcluster.spec.values import Address, FileModel, Interface, Name, Subnet

INVENTORY_SCHEMA = 1


class MachineEntry(FileModel):
    """One machine. Everything may be left out: the name tells the kind, the host is the name."""

    kind: Kind | None = None
    connection: Connection | None = None
    host: Address | None = None
    user: str | None = Field(default=None, min_length=1)
    ssh_port: int = Field(default=22, ge=1, le=65535)
    python: str | None = Field(default=None, min_length=1)
    workdir: str | None = Field(default=None, min_length=1)
    device: Device = "auto"
    memory_mb: int | None = Field(default=None, gt=0)
    ranks: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    train: bool | None = None
    app: App | None = None
    precision: TabletPrecision | None = None


class NetworkEntry(FileModel):
    """One physical link or LAN."""

    medium: Medium
    subnet: Subnet | None = None
    speed_mbps: float | None = Field(default=None, gt=0)
    private: bool | None = None
    members: dict[Name, Address]
    gateways: dict[str, str] = Field(default_factory=dict)
    interfaces: dict[str, Interface] = Field(default_factory=dict)
    mtu: int | None = Field(default=None, ge=1280, le=9216)

    @field_validator("members", mode="before")
    @classmethod
    def _somebody(cls, members: object) -> object:
        if members in (None, {}):
            raise ValueError("nobody is on this wire | write `machine: address` lines below it, or delete the wire")
        return members


class NetworkSettings(FileModel):
    """What holds for all wires together."""

    pis_reach_each_other: bool = True


class InventoryFile(FileModel):
    """The whole file. `defaults` holds run settings; the layers of spec.layers validate them."""

    schema_: int = Field(alias="schema")
    name: Name
    controller: str = "localhost"
    machines: dict[Name, MachineEntry | None] = Field(min_length=1)
    networks: dict[Name, NetworkEntry] = Field(default_factory=dict)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    defaults: dict[str, Any] = Field(default_factory=dict)
