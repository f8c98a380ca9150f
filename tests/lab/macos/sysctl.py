"""sysctl(8): forwarding, and what a Mac says of itself. Nothing that is set survives a reboot."""

from __future__ import annotations

from pathlib import Path

from . import hardware
from .told import Refused, is_root, unknown

# macOS's name -> where this host's own network namespace keeps it.
_SETTINGS = {
    "net.inet.ip.forwarding": Path("/proc/sys/net/ipv4/ip_forward"),
    "net.inet6.ip6.forwarding": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}


def main(arguments: list[str]) -> int:
    """One call."""
    options = [word for word in arguments if word.startswith("-")]
    names = [word for word in arguments if not word.startswith("-")]
    if set("".join(options).replace("-", "")) - {"n", "w"} or not names:
        raise unknown("sysctl", " ".join(arguments))
    only_value = any("n" in option for option in options)
    for name in names:
        key, sign, value = name.partition("=")
        old = _value(key)
        if not sign:
            print(old if only_value else f"{key}: {old}")
            continue
        if key not in _SETTINGS:
            raise Refused(f"sysctl: oid '{key}' is read only", 1)
        if not is_root():
            raise Refused(f"sysctl: {key}: Operation not permitted", 1)
        if value not in ("0", "1"):
            raise Refused(f"sysctl: invalid integer '{value}'", 1)
        _SETTINGS[key].write_text(value)
        print(f"{old} -> {value}" if only_value else f"{key}: {old} -> {value}")
    return 0


def _value(key: str) -> str:
    if key in _SETTINGS:
        return _SETTINGS[key].read_text().strip()
    host = hardware.host()
    about: dict[str, str] = {
        "kern.ostype": "Darwin",
        "kern.hostname": host["name"],
        "hw.model": host["model"],
        "hw.memsize": str((host["memory_mb"] or 16384) * 2**20),
        "machdep.cpu.brand_string": "Apple M4",
    }
    if key not in about:
        raise Refused(f"sysctl: unknown oid '{key}'", 1)
    return about[key]
