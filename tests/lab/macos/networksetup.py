"""networksetup(8): services, addresses, additional routes, order, MTU. It tells its errors on standard output."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from . import configd, hardware, kernel, preferences
from .preferences import Preferences, Service
from .told import Refused, is_root, unknown

_ASTERISK = "An asterisk (*) denotes that a network service is disabled."
_INVALID = "** Error: The parameters were not valid."
_UNSET = "(null)"


def main(arguments: list[str]) -> int:
    """One call."""
    if not arguments:
        raise unknown("networksetup", "a call without a command")
    # The real one does not mind capitals in its commands.
    command, rest = arguments[0].lower().lstrip("-"), arguments[1:]
    if command in _READING:
        _READING[command](preferences.load(), rest)
        return 0
    if command not in _CHANGING:
        raise unknown("networksetup", arguments[0])
    if not is_root():
        raise Refused("** Error: Command requires admin privileges.", 14, on_stdout=True)
    with preferences.changed() as settings:
        _CHANGING[command](settings, rest)
    return 0


def _list_services(settings: Preferences, rest: list[str]) -> None:
    print(_ASTERISK)
    for service in settings.services:
        print(service.name if service.enabled else f"*{service.name}")


def _list_order(settings: Preferences, rest: list[str]) -> None:
    print(_ASTERISK)
    for number, service in enumerate(settings.services, 1):
        print(f"({number if service.enabled else '*'}) {service.name}")
        print(f"(Hardware Port: {service.port}, Device: {service.device})\n")


def _list_ports(settings: Preferences, rest: list[str]) -> None:
    for label, device, mac in _all_ports(settings):
        print(f"\nHardware Port: {label}\nDevice: {device}\nEthernet Address: {mac}")
    print("\nVLAN Configurations\n===================")


def _info(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    address, router = configd.wanted(service)
    if service.method == "Off":
        print("IPv4: Off")
    else:
        print(f"{service.method} Configuration")
        if address is not None:
            shown = router or _UNSET
            print(f"IP address: {address.ip}\nSubnet mask: {address.netmask}\nRouter: {shown}")
        if service.method == "DHCP":
            print("Client ID: ")
    print(f"IPv6: {service.ipv6}")
    if service.ipv6 == "Automatic":
        print("IPv6 IP address: none\nIPv6 Router: none")
    port = hardware.port(service.device)
    kind = "Wi-Fi ID" if port and port["medium"] == "wifi" else "Ethernet Address"
    found = kernel.interface(service.device)
    print(f"{kind}: {found['address'] if found else _UNSET}")


def _get_routes(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    if not service.routes:
        print(f"There are no additional IPv4 routes on {service.name}.")
    for destination, mask, gateway in service.routes:
        print(f"{destination} {mask} {gateway}")


def _get_dns(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    print("\n".join(service.dns) or f"There aren't any DNS Servers set on {service.name}.")


def _get_enabled(settings: Preferences, rest: list[str]) -> None:
    print("Enabled" if _service(settings, rest).enabled else "Disabled")


def _get_mtu(settings: Preferences, rest: list[str]) -> None:
    device = _device(settings, rest)
    found = kernel.interface(device)
    assert found is not None
    print(f"Active MTU: {found['mtu']} (Current Setting: {settings.mtu.get(device, 1500)})")


def _mtu_range(settings: Preferences, rest: list[str]) -> None:
    print(f"Valid MTU Range: 1280-{_largest(settings, _device(settings, rest))}")


def _location(settings: Preferences, rest: list[str]) -> None:
    print("Automatic")


def _get_name(settings: Preferences, rest: list[str]) -> None:
    print(settings.names["ComputerName"])


def _set_manual(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    if len(rest) not in (3, 4):
        raise _invalid()
    address, mask = _addresses(rest[1:3])
    if not _is_mask(mask):
        raise _invalid()
    router = rest[3] if len(rest) == 4 and rest[3] not in ("", "0.0.0.0") else ""
    if router:
        _addresses([router])
    service.method, service.address, service.mask, service.router = "Manual", address, mask, router
    configd.apply(settings, service)


def _set_dhcp(settings: Preferences, rest: list[str]) -> None:
    _set_method(settings, rest, "DHCP")


def _set_off(settings: Preferences, rest: list[str]) -> None:
    _set_method(settings, rest, "Off")


def _set_method(settings: Preferences, rest: list[str], method: str) -> None:
    service = _service(settings, rest)
    service.method, service.address, service.mask, service.router = method, "", "", ""
    configd.apply(settings, service)


def _set_v6(mode: str) -> Callable[[Preferences, list[str]], None]:
    def change(settings: Preferences, rest: list[str]) -> None:
        _service(settings, rest).ipv6 = mode

    return change


def _set_routes(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    words = rest[1:]
    if len(words) % 3:
        raise _invalid()
    _addresses(words)
    routes = [words[at : at + 3] for at in range(0, len(words), 3)]
    if not all(_is_mask(mask) for _, mask, _ in routes):
        raise _invalid()
    service.routes = routes
    configd.apply(settings, service)


def _set_dns(settings: Preferences, rest: list[str]) -> None:
    _service(settings, rest).dns = [] if [word.lower() for word in rest[1:]] == ["empty"] else rest[1:]


def _set_enabled(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    if len(rest) != 2 or rest[1].lower() not in ("on", "off"):
        raise _invalid()
    service.enabled = rest[1].lower() == "on"
    configd.apply(settings, service)


def _set_mtu(settings: Preferences, rest: list[str]) -> None:
    device = _device(settings, rest)
    if len(rest) != 2 or not rest[1].isdecimal() or not 1280 <= int(rest[1]) <= _largest(settings, device):
        raise _invalid()
    settings.mtu[device] = int(rest[1])
    configd.set_mtu(device, int(rest[1]))


def _create(settings: Preferences, rest: list[str]) -> None:
    if len(rest) != 2 or settings.service(rest[0]) is not None:
        raise _invalid()
    for label, device, _ in _all_ports(settings):
        if rest[1] in (label, device):
            service = Service(rest[0], label, device)
            settings.services.append(service)
            configd.apply(settings, service)
            return
    raise _invalid(f"{rest[1]} is not a recognized hardware port.")


def _remove(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    service.enabled, service.routes = False, []
    configd.apply(settings, service)
    settings.services.remove(service)


def _rename(settings: Preferences, rest: list[str]) -> None:
    service = _service(settings, rest)
    if len(rest) != 2 or settings.service(rest[1]) is not None:
        raise _invalid()
    service.name = rest[1]


def _order(settings: Preferences, rest: list[str]) -> None:
    if sorted(rest) != sorted(service.name for service in settings.services):
        raise _invalid()
    settings.services.sort(key=lambda service: rest.index(service.name))
    for service in settings.services:
        configd.apply(settings, service)


def _all_ports(settings: Preferences) -> list[tuple[str, str, str]]:
    """Label, device, MAC of what a service may be made on."""
    found = [(port["label"], port["device"], port["mac"]) for port in hardware.ports()]
    for bridge in settings.bridges:
        there = kernel.interface(bridge)
        if there is not None:
            found.append((preferences.BRIDGE_LABEL, bridge, there["address"]))
    return found


def _service(settings: Preferences, rest: list[str]) -> Service:
    service = settings.service(rest[0]) if rest else None
    if service is None:
        raise _invalid(f"{rest[0] if rest else ''} is not a recognized network service.")
    return service


def _device(settings: Preferences, rest: list[str]) -> str:
    """A hardware port is named by its label, its device, or a service on it."""
    if rest:
        for label, device, _ in _all_ports(settings):
            if rest[0] in (label, device):
                return device
        if (service := settings.service(rest[0])) is not None:
            return service.device
    raise _invalid(f"{rest[0] if rest else ''} is not a recognized hardware port.")


def _largest(settings: Preferences, device: str) -> int:
    members = settings.bridges.get(device, [device])
    return min((port["max_mtu"] for port in hardware.ports() if port["device"] in members), default=1500)


def _addresses(words: list[str]) -> list[str]:
    try:
        return [str(ipaddress.IPv4Address(word)) for word in words]
    except ValueError:
        raise _invalid() from None


def _is_mask(word: str) -> bool:
    inverse = int(ipaddress.IPv4Address(word)) ^ 0xFFFFFFFF
    return inverse & (inverse + 1) == 0


def _invalid(what: str = "") -> Refused:
    return Refused(f"{what}\n{_INVALID}" if what else _INVALID, 4, on_stdout=True)


_READING: dict[str, Callable[[Preferences, list[str]], None]] = {
    "listallnetworkservices": _list_services,
    "listnetworkserviceorder": _list_order,
    "listallhardwareports": _list_ports,
    "getinfo": _info,
    "getadditionalroutes": _get_routes,
    "getdnsservers": _get_dns,
    "getnetworkserviceenabled": _get_enabled,
    "getmtu": _get_mtu,
    "listvalidmturange": _mtu_range,
    "getcurrentlocation": _location,
    "listlocations": _location,
    "getcomputername": _get_name,
}
_CHANGING: dict[str, Callable[[Preferences, list[str]], None]] = {
    "setmanual": _set_manual,
    "setdhcp": _set_dhcp,
    "setv4off": _set_off,
    "setv6off": _set_v6("Off"),
    "setv6automatic": _set_v6("Automatic"),
    "setv6linklocal": _set_v6("Link-local"),
    "setadditionalroutes": _set_routes,
    "setdnsservers": _set_dns,
    "setnetworkserviceenabled": _set_enabled,
    "setmtu": _set_mtu,
    "createnetworkservice": _create,
    "removenetworkservice": _remove,
    "renamenetworkservice": _rename,
    "ordernetworkservices": _order,
}
