"""The host's real interfaces and routes, through `ip`. Names are macOS's: lo0 is Linux's lo."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from typing import Any

# Routes that the configuration put there carry this mark, so that it takes back no others.
CONFIGURED = "64"
_IP = "/opt/lab-bin/ip"


def ip(*arguments: str) -> str:
    """Run `ip`; its output. CalledProcessError carries its words."""
    return subprocess.run([_IP, *arguments], capture_output=True, text=True, check=True).stdout


def tried(*arguments: str) -> str:
    """Run `ip`; empty when it worked, else its words."""
    return subprocess.run([_IP, *arguments], capture_output=True, text=True, check=False).stderr.strip()


def told(*arguments: str) -> list[dict[str, Any]]:
    """What `ip -json` answers."""
    found: list[dict[str, Any]] = json.loads(ip("-json", *arguments) or "[]")
    return [each for each in found if each]


def linux(device: str) -> str:
    """Linux's name of an interface."""
    return "lo" if device == "lo0" else device


def darwin(device: str) -> str:
    """macOS's name of an interface."""
    return "lo0" if device == "lo" else device


def interfaces() -> list[dict[str, Any]]:
    """All interfaces with their addresses, as `ip -json -details address` tells them."""
    return told("-details", "address", "show")


def interface(device: str) -> dict[str, Any] | None:
    """One of them."""
    return next((each for each in interfaces() if each["ifname"] == linux(device)), None)


def addresses(device: str) -> list[ipaddress.IPv4Interface]:
    """The IPv4 addresses of an interface, the first one first."""
    found = interface(device)
    infos = found["addr_info"] if found else []
    return [ipaddress.IPv4Interface(f"{a['local']}/{a['prefixlen']}") for a in infos if a["family"] == "inet"]


def set_addresses(device: str, wanted: list[ipaddress.IPv4Interface]) -> None:
    """Exactly these IPv4 addresses. What stays is not touched: connections over it live on."""
    there = addresses(device)
    for address in there:
        if address not in wanted:
            ip("address", "del", str(address), "dev", linux(device))
    for address in wanted:
        if address not in there:
            ip("address", "add", str(address), "brd", "+", "dev", linux(device))


def routes(*more: str) -> list[dict[str, Any]]:
    """The IPv4 routes."""
    return told("-details", "-4", "route", "show", *more)


def set_routes(device: str, wanted: list[tuple[str, str, int]]) -> list[str]:
    """Exactly these configured routes over an interface, as (destination, gateway, metric). What could not be set."""
    there = {(r["dst"], r.get("gateway", ""), r.get("metric", 0)) for r in routes("dev", device, "proto", CONFIGURED)}
    for destination, gateway, metric in sorted(there - set(wanted)):
        tried("route", "del", destination, "via", gateway, "dev", device, "metric", str(metric), "proto", CONFIGURED)
    refused = []
    for destination, gateway, metric in wanted:
        if (destination, gateway, metric) not in there:
            words = ["route", "add", destination, "via", gateway, "dev", device, "proto", CONFIGURED]
            refused.append(tried(*words, "metric", str(metric)))
    return [words for words in refused if words]


def members(bridge: str) -> list[str]:
    """The interfaces in a bridge."""
    return [each["ifname"] for each in interfaces() if each.get("master") == bridge]


def make_bridge(name: str, mac: str) -> None:
    """A bridge as macOS makes them: it forwards at once and nothing guards against loops."""
    ip(
        "link",
        "add",
        name,
        "address",
        mac,
        "type",
        "bridge",
        "forward_delay",
        "0",
        "stp_state",
        "0",
        "mcast_snooping",
        "0",
    )
    ip("link", "set", name, "up")
