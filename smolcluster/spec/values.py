"""Values that several files hold: names, addresses, ports. Each says how to mend a bad one after ` | `."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from smolcluster.spec.base import Frozen

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
_HOST = re.compile(
    r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?$"
)
# A device, or the name Windows gives an adapter ("Ethernet 2"): it becomes an argument, so no leading dash.
_INTERFACE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9 ._#()-]{0,62}$")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class FileModel(Frozen):
    """The shape of a YAML file or one of its sections: a number in quotes is no number here."""

    model_config = ConfigDict(strict=True)


def ip_of(text: str) -> IPAddress | None:
    """The IP address a text is, or None for a name. A zone (`fe80::1%en0`) is allowed."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Whether only the machine itself can dial that address."""
    ip = ip_of(address)
    return address == "localhost" or (ip is not None and ip.is_loopback)


def normal(address: str) -> str:
    """The same text for the same address: IPv6 has many spellings, names have no case."""
    ip = ip_of(address)
    return str(ip) if ip is not None else address.lower().rstrip(".")


def _name(text: str) -> str:
    if not _NAME.match(text):
        raise ValueError(f'"{text}" is no name | use letters, digits, - and _, at most 63, a letter or digit first')
    return text


def _machine(text: str) -> str:
    if not _NAME.match(text):
        raise ValueError(f'"{text}" is no machine\'s name | write its name in the inventory: mini1, not mini1.local')
    return text


def _address(text: str) -> str:
    if ip_of(text) is not None:
        return text
    numeric = re.fullmatch(r"[0-9.]+", text)
    if numeric or not _HOST.match(text):
        raise ValueError(f'"{text}" is neither an IP address nor a host name | write 10.10.0.1, fd00::1 or mini1.local')
    return text


def _subnet(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error} | write it as 10.10.0.0/24") from None
    return text


def _interface(text: str) -> str:
    if not _INTERFACE.match(text):
        advice = "write the device (en0, eth0), or on Windows the adapter's name"
        raise ValueError(f'"{text}" is no network interface | {advice}')
    return text


def _port_map(value: Any) -> Any:
    """A lone number is the default of a map."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"default": value}
    if not isinstance(value, dict) and value is not None:
        advice = "write 65432, or {default: 65432, mini1: 65440}"
        raise ValueError(f'must be a number or a section, not "{value}" | {advice}')
    return value


Name = Annotated[str, AfterValidator(_name)]
MachineName = Annotated[str, AfterValidator(_machine)]
Address = Annotated[str, AfterValidator(_address)]
Subnet = Annotated[str, AfterValidator(_subnet)]
Interface = Annotated[str, AfterValidator(_interface)]
Port = Annotated[int, Field(ge=0, le=65535)]
PortMap = Annotated[dict[str, Port], BeforeValidator(_port_map)]
