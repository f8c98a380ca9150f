"""What a machine reads at boot, so that forwarding survives it; on a Thunderbolt cycle also ports without bridge, and
the address on the loopback.

On a Mac a LaunchDaemon: whether /etc/sysctl.conf is read is uncertain, and ifconfig keeps nothing.
"""

from __future__ import annotations

import plistlib
import re
from collections.abc import Sequence

from smolcluster.network.gather import LINUX_BOOT_FILE, MAC_BOOT_FILE
from smolcluster.spec.cluster import Kind

LABEL = "org.smolcluster.network"
BRIDGE = "bridge0"
LOOPBACK = "lo0"
BOOT_FILES: dict[Kind, str] = {"macos": MAC_BOOT_FILE, "linux": LINUX_BOOT_FILE}


def boot_text(kind: Kind, forwards: bool, unbridged: Sequence[str], kept: str | None = None) -> str | None:
    """The file's text; None where nothing is needed. `kept` is the loopback's address, `10.10.0.1/32`.

    Windows keeps all we set by itself.
    """
    if kind == "linux":
        return "# Written by smolcluster's network.yml.\nnet.ipv4.ip_forward = 1\n" if forwards else None
    if kind != "macos":
        return None
    # The ports may be out of the bridge already: that is no error.
    commands = [f"/sbin/ifconfig {BRIDGE} deletem {port} || true" for port in unbridged]
    commands += [f"/sbin/ifconfig {LOOPBACK} alias {kept}"] if kept else []
    commands += ["/usr/sbin/sysctl -w net.inet.ip.forwarding=1"] if forwards else []
    if not commands:
        return None
    job = {"Label": LABEL, "ProgramArguments": ["/bin/sh", "-c", "; ".join(commands)], "RunAtLoad": True}
    return plistlib.dumps(job, sort_keys=True).decode()


def turned_on_forwarding(text: str | None) -> bool:
    """Whether a boot file of ours turns forwarding on: only then may it be turned off again."""
    return text is not None and ("ip.forwarding=1" in text or "ip_forward = 1" in text)


def unbridged_by(text: str | None) -> tuple[str, ...]:
    """The ports that a boot file of ours takes out of the bridge."""
    return tuple(re.findall(rf"ifconfig {BRIDGE} deletem (\w+)", text or ""))


def kept_by(text: str | None) -> str | None:
    """The address that a boot file of ours gives the loopback."""
    found = re.search(rf"ifconfig {LOOPBACK} alias ([0-9./]+)", text or "")
    return found[1] if found else None
