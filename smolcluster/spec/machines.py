"""What a machine's name and connection tell when the inventory does not: its kind, where its runs lie."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from smolcluster.spec.cluster import App, Connection, Kind
from smolcluster.spec.values import ip_of

_KIND_BY_NAME: tuple[tuple[str, Kind], ...] = (
    ("macbook", "macos"),
    ("mini", "macos"),
    ("pi", "linux"),
    ("win", "windows"),
    ("ipad", "ipados"),
)
_KIND_BY_PLATFORM: dict[str, Kind] = {"darwin": "macos", "win32": "windows"}
REMOTE_WORKDIR = "~/.smolcluster/runs"


def kind_from_name(name: str) -> Kind | None:
    """The kind a name stands for (`mini1` a Mac, `pi5` Linux); None when it stands for nothing."""
    lowered = name.lower()
    return next((kind for prefix, kind in _KIND_BY_NAME if lowered.startswith(prefix)), None)


def own_kind() -> Kind:
    """The kind of the machine this runs on."""
    return _KIND_BY_PLATFORM.get(sys.platform, "linux")


def is_raspberry_pi(name: str, kind: Kind) -> bool:
    """Whether a machine is taken for a Raspberry Pi: Linux, and named `pi*`."""
    return kind == "linux" and name.lower().startswith("pi")


def app_at(addresses: Iterable[str]) -> App:
    """What a tablet with these addresses computes layers in: what is dialled needs a fixed one, a browser none."""
    return "native" if any(ip_of(address) is not None for address in addresses) else "browser"


def default_workdir(connection: Connection, inventory: Path) -> str:
    """Where runs lie: below the home folder on a remote machine; here in `runs` of the inventory's project."""
    if connection != "local":
        return REMOTE_WORKDIR
    folder = inventory.resolve().parent
    project = folder.parent if folder.name == "inventory" else Path.cwd()
    return str(project / "runs")
