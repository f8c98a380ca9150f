"""Linux: NetworkManager keeps what it sets. A cable gets a connection of ours; the owner's own stays as it was."""

from __future__ import annotations

from smolcluster.network.found import Ipv4
from smolcluster.network.gather import LINUX_BOOT_FILE
from smolcluster.network.read import own_device
from smolcluster.network.steps import (
    Action,
    ActiveStep,
    AliasStep,
    BootStep,
    ForwardingStep,
    Ipv4Step,
    MembersStep,
    MtuStep,
    ProfileStep,
    RoutesStep,
    Step,
)

# Above the owner's connections of the same device, which have 0 or less.
_PRIORITY = "100"


def actions(step: Step) -> tuple[Action, ...]:
    """The commands of a step."""
    match step:
        case ProfileStep(after=True):
            words = ("type", "ethernet", "con-name", step.profile, "ifname", step.device, "autoconnect", "yes")
            more = (
                "connection.autoconnect-priority",
                _PRIORITY,
                "ipv4.method",
                "disabled",
                # Made from the MAC, so that it is the same in every connection and a login over it goes on.
                "ipv6.method",
                "link-local",
                "ipv6.addr-gen-mode",
                "eui64",
            )
            return (_nmcli("connection", "add", *words, *more),)
        case ProfileStep():
            return (_nmcli("connection", "delete", step.profile),)
        case Ipv4Step():
            return _modify(step, *_ipv4(step.after, bool(own_device(step.profile))))
        case MtuStep():
            return _modify(step, "802-3-ethernet.mtu", str(step.after or 0))
        case RoutesStep():
            if own_device(step.profile):
                # Ours whole. In the owner's own a route may have more to it than we read, so there one at a time.
                return _modify(step, "ipv4.routes", ", ".join(f"{r.destination} {r.via}" for r in step.after))
            gone = [route for route in step.before if route not in step.after]
            come = [route for route in step.after if route not in step.before]
            pairs = [_route(sign, str(r)) for sign, routes in (("-", gone), ("+", come)) for r in routes]
            return _modify(step, *(word for pair in pairs for word in pair))
        case ActiveStep(after=None):
            # `device disconnect` would keep the owner's connection of the device from coming up by itself ever after.
            return (_nmcli("connection", "down", str(step.before), passing=True),)
        case ActiveStep():
            return (_nmcli("connection", "up", str(step.after), "ifname", step.device, passing=True),)
        case ForwardingStep():
            return (Action(argv=("sysctl", "-w", f"net.ipv4.ip_forward={int(step.after)}")),)
        case BootStep():
            return (Action(path=LINUX_BOOT_FILE, text=step.after),)
        case MembersStep() | AliasStep():
            return ()


def _nmcli(*words: str, passing: bool = False) -> Action:
    return Action(argv=("nmcli", *words), passing=passing)


def _modify(step: Step, *words: str) -> tuple[Action, ...]:
    """Change the connection; where it is in force, let the device follow without going down."""
    change = (_nmcli("connection", "modify", step.profile, *words),) if words else ()
    return (*change, _nmcli("device", "reapply", step.device, passing=True)) if step.live else change


def _route(sign: str, text: str) -> tuple[str, str]:
    return f"{sign}ipv4.routes", text.replace(" via ", " ")


def _ipv4(wanted: Ipv4, own: bool) -> tuple[str, ...]:
    method = {"manual": "manual", "dhcp": "auto"}.get(wanted.method, "disabled")
    words = ("ipv4.method", method, "ipv4.addresses", wanted.address or "", "ipv4.gateway", wanted.router or "")
    if not own:
        # What its owner says there we have not read, and could not give back.
        return words
    # A connection without a router never becomes the default route; one with a router may not be told so.
    return (*words, "ipv4.never-default", "no" if wanted.router or method == "auto" else "yes")
