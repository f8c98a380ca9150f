"""Windows: the NetTCPIP cmdlets keep what they set. Nobody has run these on a real Windows PC."""

from __future__ import annotations

from smolcluster.network.found import Ipv4
from smolcluster.network.steps import Action, Ipv4Step, MtuStep, RoutesStep, Step


def actions(step: Step) -> tuple[Action, ...]:
    """The commands of a step. Adapters are there and in force by themselves, and Windows forwards nothing here."""
    alias = f"-InterfaceAlias {quoted(step.device)}"
    match step:
        case Ipv4Step():
            return tuple(_powershell(line) for line in _ipv4(alias, step.before, step.after))
        case MtuStep():
            return (_powershell(f"Set-NetIPInterface {alias} -AddressFamily IPv4 -NlMtuBytes {step.after or 1500}"),)
        case RoutesStep():
            gone = [route for route in step.before if route not in step.after]
            come = [route for route in step.after if route not in step.before]
            return tuple(
                _powershell(f"{verb} {alias} -DestinationPrefix {quoted(r.destination)} -NextHop {quoted(r.via)}{end}")
                for verb, routes, end in (("Remove-NetRoute", gone, " -Confirm:$false"), ("New-NetRoute", come, ""))
                for r in routes
            )
        case _:
            return ()


def quoted(text: str) -> str:
    """A literal of PowerShell: nothing in it is expanded, a quote is doubled."""
    return "'" + text.replace("'", "''") + "'"


def _powershell(line: str) -> Action:
    return Action(argv=("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", line))


def _ipv4(alias: str, before: Ipv4, after: Ipv4) -> list[str]:
    lines = []
    if before.address is not None:
        lines.append(f"Remove-NetIPAddress {alias} -IPAddress {_ip(before)} -Confirm:$false")
    if before.router is not None:
        lines.append(f"Remove-NetRoute {alias} -DestinationPrefix '0.0.0.0/0' -Confirm:$false")
    dhcp = "Enabled" if after.method == "dhcp" else "Disabled"
    lines.append(f"Set-NetIPInterface {alias} -AddressFamily IPv4 -Dhcp {dhcp}")
    if after.address is not None:
        prefix = after.address.partition("/")[2]
        router = f" -DefaultGateway {quoted(after.router)}" if after.router else ""
        lines.append(f"New-NetIPAddress {alias} -IPAddress {_ip(after)} -PrefixLength {prefix}{router}")
    return lines


def _ip(ipv4: Ipv4) -> str:
    return quoted(str(ipv4.address).partition("/")[0])
