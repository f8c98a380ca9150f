"""ifconfig(8): interfaces as they are now. Nothing that it changes survives a reboot."""

from __future__ import annotations

import ipaddress
import subprocess
from typing import Any

from . import hardware, kernel
from .told import Refused, is_root, unknown

_MEDIA = {
    "ethernet": "autoselect (1000baseT <full-duplex>)",
    "wifi": "autoselect",
    "thunderbolt": "autoselect <full-duplex>",
}
_KNOWN_FAMILIES = ("inet", "inet6", "ether")


def main(arguments: list[str]) -> int:
    """One call."""
    if not arguments or arguments == ["-a"]:
        for found in kernel.interfaces():
            print(_shown(found))
        return 0
    if arguments == ["-l"]:
        print(" ".join(kernel.darwin(found["ifname"]) for found in kernel.interfaces()))
        return 0
    device, *words = arguments
    if device.startswith("-"):
        raise unknown("ifconfig", device)
    if words[:1] != ["create"] and kernel.interface(device) is None:
        raise Refused(f"ifconfig: interface {device} does not exist", 1)
    if not words or (len(words) == 1 and words[0] in _KNOWN_FAMILIES):
        print(*(_shown(each) for each in kernel.interfaces() if each["ifname"] == kernel.linux(device)))
        return 0
    if not is_root():
        raise Refused("ifconfig: ioctl (SIOCDIFADDR): permission denied", 1)
    try:
        _change(device, words)
    except subprocess.CalledProcessError as error:
        raise Refused(f"ifconfig: {error.stderr.strip()}", 1) from None
    return 0


def _change(device: str, words: list[str]) -> None:
    name = kernel.linux(device)
    if words[0] in ("up", "down"):
        kernel.ip("link", "set", name, words[0])
    elif words[0] == "create" and device.startswith("bridge"):
        kernel.make_bridge(device, f"{hardware.ports()[0]['mac'][:-2]}{0xF0 + int(device[6:] or 0):02x}")
    elif words[0] == "destroy":
        kernel.ip("link", "del", name)
    elif words[0] == "mtu" and len(words) == 2:
        kernel.ip("link", "set", name, "mtu", words[1])
    elif words[0] == "addm" and len(words) == 2:
        kernel.ip("link", "set", words[1], "master", name)
    elif words[0] == "deletem" and len(words) == 2:
        kernel.ip("link", "set", words[1], "nomaster")
    else:
        _address(device, [word for word in words if word != "inet"])


def _address(device: str, words: list[str]) -> None:
    """`[alias] A.B.C.D[/N] [netmask M] [alias]`, and with `-alias` or `delete` the way back."""
    taken = next((word for word in words if word in ("alias", "-alias", "delete")), "")
    rest = [word for word in words if word not in ("alias", "-alias", "delete", "add")]
    if len(rest) == 3 and rest[1] == "netmask":
        mask = rest[2]
        rest = [f"{rest[0]}/{ipaddress.IPv4Address(int(mask, 16)) if mask.startswith('0x') else mask}"]
    try:
        (address,) = [ipaddress.IPv4Interface(word) for word in rest]
    except ValueError:
        raise unknown("ifconfig", " ".join(words)) from None
    there = kernel.addresses(device)
    if taken in ("-alias", "delete"):
        kept = [each for each in there if each.ip != address.ip]
        if kept == there:
            raise Refused("ifconfig: ioctl (SIOCDIFADDR): Can't assign requested address", 1)
        kernel.set_addresses(device, kept)
    elif taken == "alias":
        kernel.set_addresses(device, [*(each for each in there if each.ip != address.ip), address])
    else:
        # Without `alias` the first address is replaced.
        kernel.set_addresses(device, [address, *there[1:]])


def _shown(found: dict[str, Any]) -> str:
    device = kernel.darwin(found["ifname"])
    up = "UP" in found["flags"]
    loopback = device == "lo0"
    words = ["UP"] * up + (["LOOPBACK", "RUNNING", "MULTICAST"] if loopback else [])
    if not loopback:
        words += ["BROADCAST", "SMART", *(["RUNNING"] if up else []), "SIMPLEX", "MULTICAST"]
    number = 0x8049 if loopback else 0x8822 + (0x41 if up else 0)
    lines = [f"{device}: flags={number:x}<{','.join(words)}> mtu {found['mtu']}"]
    if not loopback:
        lines.append(f"\tether {found['address']}")
    lines += [_address_line(device, info, found["ifindex"], loopback) for info in found["addr_info"]]
    if found.get("linkinfo", {}).get("info_kind") == "bridge":
        lines.append("\tConfiguration:\n\t\tid 0:0:0:0:0:0 priority 0 hellotime 0 fwddelay 0")
        for number, member in enumerate(kernel.members(device), 1):
            lines.append(f"\tmember: {member} flags=3<LEARNING,DISCOVER>")
            lines.append(f"\t        ifmaxaddr 0 port {number} priority 0 path cost 0")
    if not loopback:
        port = hardware.port(device)
        lines.append(f"\tmedia: {_MEDIA[port['medium']] if port else '<unknown type>'}")
        lines.append(f"\tstatus: {'active' if 'LOWER_UP' in found['flags'] else 'inactive'}")
    return "\n".join(lines)


def _address_line(device: str, info: dict[str, Any], index: int, loopback: bool) -> str:
    if info["family"] == "inet6":
        zone = f"%{device}" if info["scope"] == "link" else ""
        scope = f" scopeid 0x{index:x}" if zone else ""
        return f"\tinet6 {info['local']}{zone} prefixlen {info['prefixlen']}{scope}"
    address = ipaddress.IPv4Interface(f"{info['local']}/{info['prefixlen']}")
    line = f"\tinet {address.ip} netmask 0x{int(address.netmask):08x}"
    return line if loopback else f"{line} broadcast {address.network.broadcast_address}"
