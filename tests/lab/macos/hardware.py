"""What this Mac is made of and what is plugged into it, as the lab says (tests/lab/lab.py writes both files)."""

from __future__ import annotations

import json
import socket
from functools import cache
from pathlib import Path
from typing import Any

_STATE = Path("/opt/lab-state")


@cache
def host() -> dict[str, Any]:
    """This host: name, kind, model, memory_mb, ports (device, label, medium, mac, uuid, max_mtu), leases by device."""
    found: dict[str, Any] = json.loads((_STATE / "hosts" / f"{socket.gethostname()}.json").read_text())
    return found


def ports() -> list[dict[str, Any]]:
    """The sockets of this Mac."""
    found: list[dict[str, Any]] = host()["ports"]
    return found


def port(device: str) -> dict[str, Any] | None:
    """The socket of an interface."""
    return next((port for port in ports() if port["device"] == device), None)


def cables() -> list[dict[str, Any]]:
    """All cables of the lab now: medium, gbps, up, and ends (host, device, uuid, model)."""
    found: list[dict[str, Any]] = json.loads((_STATE / "cables.json").read_text())
    return found
