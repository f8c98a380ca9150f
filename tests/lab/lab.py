"""The documentation's home cluster on one machine.

    with Lab() as lab:
        lab.host("mini1").run(["networksetup", "-listallhardwareports"])
        lab.link("thunderbolt", "mini1", "mini2").down()
        lab.controller.run(["ssh", "pi5", "hostname"], user="smol")

New hosts are bare: Macs and members have their Wi-Fi address, nothing is forwarded, and a Pi is reached through the Mac
it is plugged into, by the address that its interface gives itself. What makes them a network is network.yml's business.
"""

from __future__ import annotations

import compileall
import json
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from . import files
from .disk import PI_PROFILE, Disk, KeyPair
from .host import Host
from .link import Link, shaping
from .outside import LabError, Outside
from .wiring import INVENTORY, MTU, Wiring, wiring

_ROOT = Path(__file__).parents[2]
_THUNDERBOLT_GBPS = 40


class Lab:
    """Up from the moment the context is entered until it is left, or the process that entered it is gone.

    `inventory` says which machines and wires there are, `only` which of them. `thunderbolt` names the cables between
    Macs (a chain otherwise). A new Mac bridges its Thunderbolt ports and nothing guards against loops, so a cycle
    storms as it would on a desk; cables that are `unplugged` lie ready for `link(...).up()`.
    """

    def __init__(
        self,
        inventory: Path = INVENTORY,
        *,
        only: Sequence[str] | None = None,
        thunderbolt: Sequence[tuple[str, str]] | None = None,
        unplugged: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.wiring: Wiring = wiring(inventory, only, thunderbolt)
        self.hosts: dict[str, Host] = {}
        self.links: list[Link] = []
        self._unplugged = {frozenset(ends) for ends in unplugged}
        self._outside: Outside | None = None

    def __enter__(self) -> Lab:
        # No host may keep what it compiles of these, and a play calls them hundreds of times.
        for package in ("inside", "macos"):
            compileall.compile_dir(Path(__file__).parent / package, quiet=1)
        shown = shown_folders()
        self._outside = outside = Outside(shown)
        try:
            outside.run(
                [
                    "sh",
                    "-c",
                    "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; echo 0 >/proc/sys/net/ipv4/ip_forward",
                ]
            )
            (outside.memory / "state" / "hosts").mkdir(parents=True)
            self._lay_cables(outside)
            self._make_hosts(outside, shown)
            self._switch_on(*self.hosts.values())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all of it; returns when nothing is left. More than once is no harm."""
        for link in self.links:
            link.close()
        outside, self._outside = self._outside, None
        if outside is not None:
            outside.close()
        for host in self.hosts.values():
            host.cut_power()

    @property
    def outside(self) -> Outside:
        """Where the hosts and cables are."""
        if self._outside is None:
            raise LabError("the lab is not up")
        return self._outside

    def host(self, name: str) -> Host:
        """The host of that name. KeyError if there is none."""
        return self.hosts[name]

    @property
    def controller(self) -> Host:
        """The host that playbooks run on."""
        return self.hosts[self.wiring.cluster.controller]

    def link(self, network: str, host: str, peer: str | None = None) -> Link:
        """The cable of a network between two hosts, or a host's only one. LookupError if there is none, or several."""
        found = [link for link in self.links if link.segment.network == network and _joins(link, host, peer)]
        if len(found) != 1:
            between = f"{host} and {peer}" if peer else host
            raise LookupError(f"{len(found)} links of {network} at {between}")
        return found[0]

    def reboot(self, name: str) -> Host:
        """Pull a host's plug and put it back; returns when it is up again."""
        host = self.host(name)
        self.switch_off(name)
        self._switch_on(host)
        return host

    def switch_off(self, name: str) -> None:
        """Pull a host's plug."""
        host = self.host(name)
        for link in self.links:
            if any(port.host == name for port in link.ports):
                link.close()
        host.cut_power()
        # The kernel takes interfaces of a gone host away when it has time; their names are wanted again at once.
        self.outside.forget(*(port.outer for port in host.machine.ports))
        self._refresh()

    def switch_on(self, *names: str) -> None:
        """Put the plugs of hosts that are off back, all at once; returns when they are up."""
        self._switch_on(*(self.host(name) for name in names))

    def inventory(self) -> str:
        """An inventory file of the lab's hosts, for the controller."""
        return files.inventory(self.wiring)

    def _lay_cables(self, outside: Outside) -> None:
        commands = ["link set lo up"]
        for segment in self.wiring.segments:
            commands.append(f"link add {segment.bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0")
            commands.append(f"link set {segment.bridge} up")
            if segment.router:
                commands.append(f"address add {segment.router} dev {segment.bridge}")
            sides = [(port,) for port in segment.ports] if segment.medium == "wifi" else [segment.ports]
            for side in sides:
                link = Link(segment, side, outside, self._pid_of, self._refresh)
                link.plugged = frozenset(port.host for port in side) not in self._unplugged
                self.links.append(link)
        outside.ip(*commands)

    def _make_hosts(self, outside: Outside, shown: tuple[str, ...]) -> None:
        person = KeyPair.make("lab")
        keys = {machine.name: KeyPair.make(machine.name) for machine in self.wiring.machines}
        known = "".join(
            f"{files.names(self.wiring, machine)} {keys[machine.name].public}" for machine in self.wiring.machines
        )
        for machine in self.wiring.machines:
            disk = Disk(outside.memory / "disks" / machine.name, machine.name, machine.kind)
            disk.make(keys[machine.name], person, files.hosts_file(self.wiring, machine), known)
            disk.import_from(_ROOT, shown)
            for port in machine.ports:
                if machine.kind == "linux":
                    profile = PI_PROFILE.format(uuid=uuid.uuid4(), device=port.device)
                    name = f"etc/NetworkManager/system-connections/Wired connection {port.device}.nmconnection"
                    disk.write(name, profile, 0o600)
            if machine.name == self.wiring.cluster.controller:
                disk.write_home(".ssh/id_ed25519", person.private, 0o600)
                disk.write_home(".ssh/config", files.ssh_config(self.wiring, disk.home))
            told = outside.memory / "state" / "hosts" / f"{machine.name}.json"
            told.write_text(json.dumps(files.hardware(self.wiring, machine)))
            self.hosts[machine.name] = Host(machine, disk, outside, shown)

    def _ports(self, host: Host) -> list[dict[str, Any]]:
        """What inside/boot.py makes of a host's ports, and where it plugs them in."""
        plugs = {port: link for link in self.links for port in link.ports}
        made = []
        for port in host.machine.ports:
            link = plugs.get(port)
            made.append(
                {
                    "device": port.device,
                    "mac": port.mac,
                    "outer": port.outer,
                    "mtu": MTU,
                    "max_mtu": port.max_mtu,
                    "bridge": link.segment.bridge if link else "",
                    "rate": shaping(link.mbps) if link and link.mbps else "",
                }
            )
        return made

    def _tell_cables(self) -> None:
        """What system_profiler on the Macs can see of the cables."""
        cables = []
        for link in self.links:
            ends = [
                {
                    "host": port.host,
                    "device": port.device,
                    "uuid": port.uuid,
                    "model_name": files.model(port.host)[1],
                    "on": self.hosts[port.host].on,
                }
                for port in link.ports
            ]
            cables.append({"medium": link.segment.medium, "gbps": _THUNDERBOLT_GBPS, "up": link.plugged, "ends": ends})
        state = self.outside.memory / "state"
        new = state / ".cables.json"
        new.write_text(json.dumps(cables))
        new.replace(state / "cables.json")

    def _switch_on(self, *hosts: Host) -> None:
        for host in hosts:
            host.start(self._ports(host))
        for host in hosts:
            host.await_start()
        self._refresh()
        for host in hosts:
            host.await_up()

    def _refresh(self) -> None:
        """Give every link the carrier it has now, and tell of it."""
        self.outside.ip(*(line for link in self.links for line in link.carriers()))
        self._tell_cables()

    def _pid_of(self, name: str) -> int:
        """A host's first program; 0 when it is off."""
        return self.hosts[name].pid


def _joins(link: Link, host: str, peer: str | None) -> bool:
    names = [port.host for port in link.ports]
    return host in names and (peer is None or peer in names)


def shown_folders() -> tuple[str, ...]:
    """The folders that hosts see as this machine has them: the project, and the Python that runs it."""
    found: list[Path] = []
    for path in (_ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()):
        # Debian's own Python is in /usr, which each host has with its own changes.
        if path != Path("/usr") and not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return tuple(str(path) for path in found)
