"""Windows: Get-NetIPAddress, Get-NetIPInterface, Get-NetRoute and Get-NetAdapter through ConvertTo-Json.

Windows PowerShell writes enumerations as numbers, PowerShell 7 may write their names, and a single object is no list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smolcluster.network.found import Interface, InterfaceKind, Ipv4, KeptRoute, LiveRoute, Profile
from smolcluster.network.parse import FormatError

_WIFI = {"9", "native 802.11"}  # NdisPhysicalMedium
_ENABLED = {"1", "enabled", "true"}
_UP = {"up", "1"}
_MANUAL = {"1", "manual"}
_KEPT_PROTOCOL = {"3", "netmgmt"}
_DEFAULT = "0.0.0.0/0"


def entries(text: str, tool: str) -> list[dict[str, Any]]:
    """What ConvertTo-Json printed; nothing at all is no entry."""
    try:
        value = json.loads(text.lstrip("\ufeff").strip() or "[]")
    except ValueError:
        raise FormatError(tool, "is no JSON") from None
    found = value if isinstance(value, list) else [value]
    return [entry for entry in found if isinstance(entry, dict)]


def interfaces(
    adapters: str, addresses: str, settings: str, routes: tuple[LiveRoute, ...], kept: Mapping[str, list[KeptRoute]]
) -> tuple[Interface, ...]:
    """The adapters with what is set on them. An adapter is named by its alias, which is the person's own."""
    found = []
    by_alias = {str(s["InterfaceAlias"]): s for s in entries(settings, "Get-NetIPInterface")}
    all_addresses = entries(addresses, "Get-NetIPAddress")
    for adapter in entries(adapters, "Get-NetAdapter"):
        alias = str(adapter["Name"])
        mine = [a for a in all_addresses if str(a["InterfaceAlias"]) == alias]
        setting = by_alias.get(alias, {})
        by_hand = [a for a in mine if _word(a, "PrefixOrigin") in _MANUAL]
        router = next((r.via for r in routes if r.device == alias and r.destination == _DEFAULT), None)
        if _word(setting, "Dhcp") in _ENABLED:
            ipv4 = Ipv4(method="dhcp")
        elif by_hand:
            ipv4 = Ipv4(method="manual", address=_address(by_hand[0]), router=router)
        else:
            ipv4 = Ipv4(method="off")
        mtu = setting.get("NlMtu")
        found.append(
            Interface(
                device=alias,
                kind=_kind(adapter),
                up=_word(adapter, "Status") in _UP,
                port=str(adapter.get("InterfaceDescription", "")),
                mac=str(adapter.get("MacAddress", "")).replace("-", ":").lower(),
                mtu=int(mtu) if mtu else None,
                addresses=tuple(_address(a) for a in mine),
                profiles=(
                    Profile(
                        id=alias,
                        name=alias,
                        active=True,
                        ipv4=ipv4,
                        routes=tuple(kept.get(alias, ())),
                        mtu=int(mtu) if mtu else None,
                    ),
                ),
            )
        )
    return tuple(found)


def routing_table(text: str) -> tuple[LiveRoute, ...]:
    """`Get-NetRoute -AddressFamily IPv4`. A next hop of 0.0.0.0 is the wire itself."""
    return tuple(
        LiveRoute(
            destination=str(entry["DestinationPrefix"]),
            device=str(entry["InterfaceAlias"]),
            via=None if entry["NextHop"] == "0.0.0.0" else str(entry["NextHop"]),  # noqa: S104 - Windows' "no gateway"
        )
        for entry in entries(text, "Get-NetRoute")
    )


def kept_routes(text: str) -> dict[str, list[KeptRoute]]:
    """By adapter, the routes through a gateway that somebody set (not DHCP's, not the default route)."""
    found: dict[str, list[KeptRoute]] = {}
    for entry in entries(text, "Get-NetRoute"):
        manual = _word(entry, "Protocol") in _KEPT_PROTOCOL
        if manual and entry["NextHop"] != "0.0.0.0" and entry["DestinationPrefix"] != _DEFAULT:  # noqa: S104 - as above
            route = KeptRoute(destination=str(entry["DestinationPrefix"]), via=str(entry["NextHop"]))
            found.setdefault(str(entry["InterfaceAlias"]), []).append(route)
    return found


def _word(entry: Mapping[str, Any], key: str) -> str:
    return str(entry.get(key, "")).strip().lower()


def _address(entry: Mapping[str, Any]) -> str:
    return f"{entry['IPAddress']}/{entry['PrefixLength']}"


def _kind(adapter: Mapping[str, Any]) -> InterfaceKind:
    if _word(adapter, "NdisPhysicalMedium") in _WIFI or _word(adapter, "PhysicalMediaType") in _WIFI:
        return "wifi"
    described = _word(adapter, "InterfaceDescription")
    if "thunderbolt" in described or "usb4" in described:
        return "thunderbolt"
    return "other" if _word(adapter, "Virtual") in _ENABLED else "ethernet"
