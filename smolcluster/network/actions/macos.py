"""macOS: networksetup keeps what it sets; ifconfig and sysctl act now, and the boot file does them again."""

from __future__ import annotations

import ipaddress

from smolcluster.network.boot import LABEL
from smolcluster.network.found import Ipv4
from smolcluster.network.gather import MAC_BOOT_FILE
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


def actions(step: Step) -> tuple[Action, ...]:
    """The commands of a step."""
    match step:
        case ProfileStep(after=True):
            return (_networksetup("-createnetworkservice", step.profile, step.device),)
        case ProfileStep():
            return (_networksetup("-removenetworkservice", step.profile),)
        case MembersStep():
            gone = [port for port in step.before if port not in step.after]
            come = [port for port in step.after if port not in step.before]
            return tuple(
                Action(argv=("ifconfig", step.device, verb, port), passing=True)
                for verb, ports in (("deletem", gone), ("addm", come))
                for port in ports
            )
        case Ipv4Step():
            return (_ipv4(step.profile, step.after),)
        case AliasStep():
            pairs = [(step.before, "-alias"), (step.after, "alias")]
            return tuple(
                Action(argv=("ifconfig", step.device, verb, text), passing=True)
                for text, verb in pairs
                if text is not None
            )
        case MtuStep():
            return (_networksetup("-setMTU", step.device, str(step.after or 1500)),)
        case RoutesStep():
            words = [word for route in step.after for word in (*_address_and_mask(route.destination), route.via)]
            return (_networksetup("-setadditionalroutes", step.profile, *words),)
        case ActiveStep():
            return (_networksetup("-setnetworkserviceenabled", step.profile, "on" if step.after else "off"),)
        case ForwardingStep():
            return (Action(argv=("sysctl", "-w", f"net.inet.ip.forwarding={int(step.after)}")),)
        case BootStep():
            return _boot(step.after)


def _boot(text: str | None) -> tuple[Action, ...]:
    """launchd's job is the one that the file describes. At boot it runs beside the job that takes a change back, and
    would set again what that one has just taken back: so it is ended, and the earlier file's job does its part.
    """
    here = [Action(path=MAC_BOOT_FILE, text=text)]
    words = [("bootout", f"system/{LABEL}"), *([("bootstrap", "system", MAC_BOOT_FILE)] if text is not None else [])]
    return (*here, *(Action(argv=("launchctl", *each), passing=True, may_fail=True) for each in words))


def _networksetup(*words: str) -> Action:
    return Action(argv=("networksetup", *words))


def _ipv4(service: str, wanted: Ipv4) -> Action:
    if wanted.method == "manual" and wanted.address is not None:
        router = (wanted.router,) if wanted.router is not None else ()
        return _networksetup("-setmanual", service, *_address_and_mask(wanted.address), *router)
    if wanted.method == "manual_dhcp_router" and wanted.address is not None:
        return _networksetup("-setmanualwithdhcprouter", service, wanted.address.partition("/")[0])
    if wanted.method == "dhcp":
        return _networksetup("-setdhcp", service, *((wanted.client_id,) if wanted.client_id else ()))
    return _networksetup("-setbootp" if wanted.method == "bootp" else "-setv4off", service)


def _address_and_mask(text: str) -> tuple[str, str]:
    found = ipaddress.IPv4Interface(text)
    return str(found.ip), str(found.netmask)
