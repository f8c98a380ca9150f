"""A Mac's network settings, kept over reboots in one property list, whose layout is the lab's own and not Apple's."""

from __future__ import annotations

import contextlib
import fcntl
import plistlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import hardware

PLIST = Path("/Library/Preferences/SystemConfiguration/preferences.plist")
BRIDGE, BRIDGE_LABEL = "bridge0", "Thunderbolt Bridge"
_LOCK = Path("/run/lab-preferences.lock")


@dataclass
class Service:
    """A configuration of a hardware port. `method`: DHCP, Manual or Off. Routes as (destination, mask, gateway)."""

    name: str
    port: str
    device: str
    enabled: bool = True
    method: str = "DHCP"
    address: str = ""
    mask: str = ""
    router: str = ""
    routes: list[list[str]] = field(default_factory=list)
    dns: list[str] = field(default_factory=list)
    ipv6: str = "Automatic"


@dataclass
class Preferences:
    """All settings. The services' order is the order in which their routers are asked."""

    services: list[Service]
    bridges: dict[str, list[str]]
    mtu: dict[str, int]
    names: dict[str, str]

    def service(self, name: str) -> Service | None:
        """The service of that name."""
        return next((service for service in self.services if service.name == name), None)


def factory() -> Preferences:
    """A new Mac's: a service for each port but the Thunderbolt ones, which are members of one bridge."""
    services = [Service(p["label"], p["label"], p["device"]) for p in hardware.ports() if p["medium"] != "thunderbolt"]
    members = [p["device"] for p in hardware.ports() if p["medium"] == "thunderbolt"]
    services.insert(len(services) - 1, Service(BRIDGE_LABEL, BRIDGE_LABEL, BRIDGE))
    name = hardware.host()["name"]
    return Preferences(services, {BRIDGE: members}, {}, {"ComputerName": name, "LocalHostName": name})


def load() -> Preferences:
    """What is kept; the factory's before anything was."""
    if not PLIST.exists():
        return factory()
    kept = plistlib.loads(PLIST.read_bytes())
    return Preferences(
        [Service(**service) for service in kept["services"]], kept["bridges"], kept["mtu"], kept["names"]
    )


def save(preferences: Preferences) -> None:
    """Keep them, all or none."""
    new = PLIST.with_name(".preferences.new")
    new.write_bytes(plistlib.dumps(asdict(preferences)))
    new.replace(PLIST)


@contextlib.contextmanager
def changed() -> Iterator[Preferences]:
    """The settings, to be changed; kept at the end unless an exception left. One at a time."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        preferences = load()
        yield preferences
        save(preferences)
