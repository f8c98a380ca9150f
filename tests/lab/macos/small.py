"""The tools that need a few lines each: ipconfig, sw_vers, pmset, caffeinate, pfctl, socketfilterfw."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from . import kernel
from .told import Refused, is_root, unknown

_VERSION = {"ProductName": "macOS", "ProductVersion": "26.1", "BuildVersion": "25B78"}
# Power and firewall settings survive a reboot, the packet filter's state does not.
_KEPT = Path("/Library/Preferences/lab-small.json")
_PF = Path("/run/lab-pf-enabled")


def ipconfig(arguments: list[str]) -> int:
    """`ipconfig getifaddr DEVICE`."""
    if len(arguments) != 2 or arguments[0] != "getifaddr":
        raise unknown("ipconfig", " ".join(arguments))
    found = kernel.addresses(arguments[1])
    if not found:
        return 1
    print(found[0].ip)
    return 0


def sw_vers(arguments: list[str]) -> int:
    """The version of macOS that the lab plays."""
    if not arguments:
        for key, value in _VERSION.items():
            print(f"{key}:\t\t{value}")
        return 0
    wanted = arguments[0].lstrip("-").lower()
    for key, value in _VERSION.items():
        if key.lower() == wanted:
            print(value)
            return 0
    raise unknown("sw_vers", arguments[0])


def pmset(arguments: list[str]) -> int:
    """`pmset -g` and `pmset -a KEY VALUE ...`."""
    kept = _kept()
    power = kept.setdefault("pmset", {"sleep": "1", "displaysleep": "10", "disksleep": "10", "womp": "1"})
    if arguments[:1] == ["-g"] and arguments[1:] in ([], ["custom"], ["live"]):
        print("System-wide power settings:\nCurrently in use:")
        for key, value in sorted(power.items()):
            print(f" {key:<20} {value}")
        return 0
    words = arguments[1:]
    if arguments[:1] not in (["-a"], ["-c"]) or not words or len(words) % 2:
        raise unknown("pmset", " ".join(arguments))
    if not is_root():
        raise Refused("'pmset' must be run as root...", 77)
    power.update(zip(words[::2], words[1::2], strict=True))
    _keep(kept)
    return 0


def caffeinate(arguments: list[str]) -> int:
    """`caffeinate [-dimsu] COMMAND`: nothing sleeps here, so the command is all there is to do."""
    words = list(arguments)
    while words and words[0].startswith("-") and not set(words[0][1:]) - set("dimsu"):
        words.pop(0)
    if not words or words[0].startswith("-"):
        raise unknown("caffeinate", " ".join(arguments))
    return os.waitstatus_to_exitcode(os.spawnvp(os.P_WAIT, words[0], words) << 8)


def pfctl(arguments: list[str]) -> int:
    """Whether the packet filter is on. Rules are not known here: none is ever loaded."""
    if arguments in (["-s", "info"], ["-si"]):
        print(f"Status: {'Enabled' if _PF.exists() else 'Disabled'}")
        return 0
    if arguments not in (["-e"], ["-d"], ["-E"]):
        raise unknown("pfctl", " ".join(arguments))
    if not is_root():
        raise Refused("pfctl: /dev/pf: Permission denied", 1)
    if arguments == ["-d"]:
        _PF.unlink(missing_ok=True)
    else:
        _PF.touch()
    print("pf disabled" if arguments == ["-d"] else "pf enabled")
    return 0


def socketfilterfw(arguments: list[str]) -> int:
    """The application firewall: its state, and which programs it lets in."""
    kept = _kept()
    firewall = kept.setdefault("firewall", {"on": False, "apps": {}})
    word, value = [*arguments, "", ""][:2]
    if word == "--getglobalstate":
        print(f"Firewall is {'enabled. (State = 1)' if firewall['on'] else 'disabled. (State = 0)'}")
        return 0
    if word == "--listapps":
        print(f"Total number of apps = {len(firewall['apps'])} \n")
        for number, (path, allowed) in enumerate(firewall["apps"].items(), 1):
            print(f"{number} : {path} \n\t\t( {'Allow' if allowed else 'Block'} incoming connections )\n")
        return 0
    if not is_root():
        raise Refused("Must be root to change settings.", 1)
    if word == "--setglobalstate" and value in ("on", "off"):
        firewall["on"] = value == "on"
        print(f"Firewall is {'enabled. (State = 1)' if firewall['on'] else 'disabled. (State = 0)'}")
    elif word in ("--add", "--unblockapp", "--blockapp") and value:
        firewall["apps"][value] = word != "--blockapp"
        print(f"Application at path ( {value} ) added to firewall")
    elif word == "--remove" and value:
        firewall["apps"].pop(value, None)
        print(f"Application at path ( {value} ) removed from firewall")
    else:
        raise unknown("socketfilterfw", " ".join(arguments))
    _keep(kept)
    return 0


def _kept() -> dict[str, Any]:
    return dict(json.loads(_KEPT.read_text())) if _KEPT.exists() else {}


def _keep(kept: dict[str, Any]) -> None:
    new = _KEPT.with_suffix(".new")
    new.write_text(json.dumps(kept, indent=1))
    new.replace(_KEPT)
