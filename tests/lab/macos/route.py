"""route(8) and `netstat -rn`: the routes that are there now. Nothing that is added survives a reboot."""

from __future__ import annotations

import ipaddress
import subprocess
from typing import Any

from . import kernel
from .told import Refused, is_root, unknown


def main(arguments: list[str]) -> int:
    """One call."""
    words = [word for word in arguments if word not in ("-n", "-q", "-net", "-host", "-inet")]
    if len(words) == 2 and words[0] == "get":
        return _get(words[1])
    if len(words) < 2 or words[0] not in ("add", "delete", "change"):
        raise unknown("route", " ".join(arguments))
    if not is_root():
        raise Refused("route: must be root to alter routing table", 77)
    verb, *rest = words
    device = ""
    if "-interface" in rest:
        at = rest.index("-interface")
        device = rest[at + 1]
        del rest[at : at + 2]
    if "-netmask" in rest:
        at = rest.index("-netmask")
        rest[0] = f"{rest[0]}/{rest[at + 1]}"
        del rest[at : at + 2]
    destination = _destination(rest[0])
    gateway = rest[1] if len(rest) > 1 else ""
    way = ["via", gateway] if gateway else ["dev", device] if device else []
    told = f"{verb} {'net' if '/' in destination or destination == 'default' else 'host'} {rest[0]}"
    told += f": gateway {gateway or device}" if way else ""
    _change(verb, destination, way, told)
    print(told)
    return 0


def _change(verb: str, destination: str, way: list[str], told: str) -> None:
    there = [route for route in kernel.routes() if route["dst"] == destination and route.get("protocol") != "kernel"]
    if verb == "add" and there:
        raise Refused(f"{told}: File exists", 1)
    if verb != "add" and not there:
        raise Refused(f"{told}: not in table", 1)
    command = {"add": "add", "change": "replace", "delete": "del"}[verb]
    words = kernel.tried("route", command, destination, *way)
    if words:
        raise Refused(f"{told}: Network is unreachable", 1)


def _get(word: str) -> int:
    found: dict[str, Any] | None
    if word == "default":
        defaults = [route for route in kernel.routes() if route["dst"] == "default"]
        found = min(defaults, key=lambda route: route.get("metric", 0), default=None)
    else:
        try:
            found = kernel.told("route", "get", word)[0]
        except subprocess.CalledProcessError:
            found = None
    if found is None:
        raise Refused("route: writing to routing socket: not in table", 1)
    print(f"   route to: {word}\ndestination: {word}")
    if "gateway" in found:
        print(f"    gateway: {found['gateway']}")
    print(f"  interface: {kernel.darwin(found['dev'])}")
    flags = "UP,GATEWAY,DONE,STATIC" if "gateway" in found else "UP,DONE"
    print(f"      flags: <{flags}>")
    return 0


def netstat(arguments: list[str]) -> int:
    """`netstat -rn`, with or without `-f inet`."""
    words = [word for word in arguments if word not in ("-f", "inet")]
    if sorted("".join(words).replace("-", "")) != ["n", "r"]:
        raise unknown("netstat", " ".join(arguments))
    print("Routing tables\n\nInternet:")
    print(f"{'Destination':<19}{'Gateway':<19}{'Flags':<15}{'Netif':>8} Expire")
    for route in sorted(kernel.routes(), key=_order):
        gateway = route.get("gateway", f"link#{_index(route['dev'])}")
        flags = "UGSc" if "gateway" in route else "UCS"
        print(f"{_short(route['dst']):<19}{gateway:<19}{flags:<15}{kernel.darwin(route['dev']):>8}")
    return 0


def _order(route: dict[str, Any]) -> tuple[bool, str, int]:
    return route["dst"] != "default", route["dst"], route.get("metric", 0)


def _index(device: str) -> int:
    found = kernel.interface(device)
    return found["ifindex"] if found else 0


def _short(destination: str) -> str:
    """As netstat writes them: trailing zero octets of a network are left out."""
    if "/" not in destination:
        return destination
    network = ipaddress.IPv4Network(destination)
    octets = str(network.network_address).split(".")[: -(-network.prefixlen // 8)]
    natural = network.prefixlen % 8 == 0
    return ".".join(octets) if natural else f"{'.'.join(octets)}/{network.prefixlen}"


def _destination(word: str) -> str:
    if word == "default":
        return word
    try:
        network = ipaddress.IPv4Network(word, strict=False)
    except ValueError:
        raise Refused(f"route: bad address: {word}", 68) from None
    return str(network.network_address) if network.prefixlen == 32 else str(network)
