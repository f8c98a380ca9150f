"""Makes the host's interfaces what the settings say: at boot, and for a service whenever it changes."""

from __future__ import annotations

import ipaddress

from . import hardware, kernel, preferences, record
from .preferences import Preferences, Service

# The service's place in the order is added: of several routers the first service's is taken.
_ROUTER_METRIC = 100


def boot() -> None:
    """All of it, on interfaces that are down and bare."""
    record.make()
    with preferences.changed() as settings:
        for port in hardware.ports():
            kernel.ip("link", "set", port["device"], "up")
        for number, (bridge, members) in enumerate(settings.bridges.items()):
            kernel.make_bridge(bridge, f"{hardware.ports()[0]['mac'][:-2]}{0xF0 + number:02x}")
            for member in members:
                kernel.ip("link", "set", member, "master", bridge)
        for device, mtu in settings.mtu.items():
            set_mtu(device, mtu)
        for service in settings.services:
            apply(settings, service)


def apply(settings: Preferences, service: Service) -> None:
    """Make a service's interface what the service says. An interface that is not there is left out, as on a Mac."""
    if kernel.interface(service.device) is None:
        return
    address, router = wanted(service)
    kernel.set_addresses(service.device, [address] if address else [])
    routes: list[tuple[str, str, int]] = []
    if address and router:
        routes.append(("default", router, _ROUTER_METRIC + settings.services.index(service)))
    if address:
        routes += [(_network(destination, mask), gateway, 0) for destination, mask, gateway in service.routes]
    for words in kernel.set_routes(service.device, routes):
        print(f"configd: {service.name}: {words}", flush=True)


def wanted(service: Service) -> tuple[ipaddress.IPv4Interface | None, str]:
    """The address and the router that a service has now."""
    if not service.enabled or service.method == "Off":
        return None, ""
    if service.method == "Manual":
        return ipaddress.IPv4Interface(f"{service.address}/{service.mask}"), service.router
    lease = hardware.host()["leases"].get(service.device)
    if lease:
        return ipaddress.IPv4Interface(lease["address"]), lease["router"]
    found = kernel.interface(service.device)
    if found is None:
        return None, ""
    # Nobody answers: an address of its own making (RFC 3927), from the interface's MAC so that it is always the same. A
    # Mac takes one only while something is at the other end; here it always has it, so that no test depends on when.
    octets = bytes.fromhex(found["address"].replace(":", ""))
    return ipaddress.IPv4Interface(f"169.254.{1 + octets[4] % 254}.{octets[5]}/16"), ""


def set_mtu(device: str, mtu: int) -> None:
    """The largest packet of an interface; a bridge's members take it over."""
    for each in [*kernel.members(device), device]:
        kernel.ip("link", "set", each, "mtu", str(mtu))


def _network(destination: str, mask: str) -> str:
    network = ipaddress.IPv4Network(f"{destination}/{mask}", strict=False)
    # As `ip` writes it, so that what is there is found again.
    return str(network.network_address) if network.prefixlen == 32 else str(network)
