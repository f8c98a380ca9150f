"""The machines a person owns and the wires between them, as the inventory file states them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from smolcluster.spec.base import Frozen

Kind = Literal["macos", "linux", "windows", "ipados"]
Connection = Literal["local", "ssh", "none"]
Medium = Literal["loopback", "thunderbolt", "ethernet", "wifi"]
Device = Literal["auto", "cpu", "mps", "cuda"]
App = Literal["native", "browser"]
TabletPrecision = Literal["fp32", "fp16", "int8", "int4"]
# What a tablet's weights may be, by what computes there; the first unless the inventory says another.
TABLET_PRECISIONS: dict[App, tuple[TabletPrecision, ...]] = {"native": ("fp16", "int8", "int4"), "browser": ("fp32",)}


class Node(Frozen):
    """One machine. `host`, `user`, `ssh_port` say how the controller reaches it.

    `python` is the interpreter that has smolcluster on that machine; `workdir` the folder its runs live in (absolute or
    starting with ~). `ranks` is how many processes it holds. `train` is False for machines that cannot (a tablet).
    `app` is what a tablet computes layers in, None for a computer: our app, dialled, or its browser, which dials;
    `precision` what the weights of its layers are then.
    """

    name: str
    kind: Kind
    connection: Connection = "ssh"
    host: str
    user: str | None = None
    ssh_port: int = 22
    python: str | None = None
    workdir: str
    device: Device = "auto"
    memory_mb: int | None = Field(default=None, gt=0)
    ranks: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    train: bool = True
    app: App | None = None
    precision: TabletPrecision | None = None


class Network(Frozen):
    """One physical link or LAN. `members` maps node name to its own address there (an address or a `.local` name).

    `gateways` maps a network name to the member that forwards to it. `private` means nobody else can be on this wire.
    `interfaces` maps a member to its device there, where that cannot be told; `mtu` in bytes, None: as it is.
    """

    name: str
    subnet: str | None = None
    medium: Medium
    speed_mbps: float = Field(gt=0)
    private: bool = False
    members: dict[str, str]
    gateways: dict[str, str] = Field(default_factory=dict)
    interfaces: dict[str, str] = Field(default_factory=dict)
    mtu: int | None = None


class ClusterSpec(Frozen):
    """All machines and wires. `controller` is the node (or "localhost") the playbooks run on.

    `pis_reach_each_other`: whether a Raspberry Pi may reach one that it shares no wire with, through the gateways.
    """

    name: str
    controller: str
    nodes: tuple[Node, ...]
    networks: tuple[Network, ...]
    pis_reach_each_other: bool = True

    def node(self, name: str) -> Node:
        """The node of that name. KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)
