"""Runs on a machine, with nothing but Python's standard library: asks the OS's own tools, prints one JSON object.

    python3 gather.py NODE KIND [SSH_CONNECTION]     {"schema": 1, "node": ..., "outputs": {"command": "its stdout"}}
    python3 gather.py commands KIND                  the commands that are asked first, as a JSON list of texts

It reads and changes nothing. What the answers mean is worked out where smolcluster is installed (read.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

SCHEMA = 1
DEADLINE_S = 20.0
SSH = "SSH_CONNECTION"
MAC_BOOT_FILE = "/Library/LaunchDaemons/org.smolcluster.network.plist"
LINUX_BOOT_FILE = "/etc/sysctl.d/60-smolcluster-network.conf"
NM_FIELDS = (
    "connection.id,connection.uuid,ipv4.method,ipv4.addresses,ipv4.gateway,ipv4.routes,ipv4.dhcp-client-id,"
    "802-3-ethernet.mtu"
)
_JSON = "| ConvertTo-Json -Compress"
_FIRST: dict[str, tuple[tuple[str, ...], ...]] = {
    "macos": (
        ("networksetup", "-listallhardwareports"),
        ("networksetup", "-listnetworkserviceorder"),
        ("ifconfig",),
        ("netstat", "-rn", "-f", "inet"),
        ("sysctl", "net.inet.ip.forwarding"),
        ("system_profiler", "SPThunderboltDataType", "-json"),
        ("cat", MAC_BOOT_FILE),
    ),
    "linux": (
        ("ip", "-j", "-d", "addr"),
        ("ip", "-j", "route"),
        ("sysctl", "net.ipv4.ip_forward"),
        ("nmcli", "-t", "-f", "UUID,NAME,TYPE,DEVICE", "connection", "show"),
        ("cat", LINUX_BOOT_FILE),
        ("nmcli", "-t", "-f", "RUNNING", "general"),
    ),
    "windows": tuple(
        ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", f"{command} {_JSON}")
        for command in (
            "Get-NetAdapter | Select-Object -Property @('Name', 'InterfaceDescription', 'MacAddress', 'Status',"
            " 'NdisPhysicalMedium', 'Virtual')",
            "Get-NetIPAddress -AddressFamily IPv4 | Select-Object -Property @('InterfaceAlias', 'IPAddress',"
            " 'PrefixLength', 'PrefixOrigin')",
            "Get-NetIPInterface -AddressFamily IPv4 | Select-Object -Property @('InterfaceAlias', 'Dhcp', 'NlMtu',"
            " 'Forwarding')",
            "Get-NetRoute -AddressFamily IPv4 | Select-Object -Property @('DestinationPrefix', 'NextHop',"
            " 'InterfaceAlias', 'Protocol')",
        )
    ),
}


def first_commands(kind: str) -> tuple[tuple[str, ...], ...]:
    """What is asked first. KeyError for a kind of machine that cannot be asked."""
    return _FIRST[kind]


def further_commands(kind: str, outputs: dict[str, str]) -> list[tuple[str, ...]]:
    """What the first answers lead to: each service of a Mac, each wired or wireless connection of NetworkManager."""
    if kind == "macos":
        lines = outputs.get(key(("networksetup", "-listnetworkserviceorder")), "").splitlines()
        names = [
            lines[i - 1].split(") ", 1)[1].removeprefix("*")
            for i, line in enumerate(lines)
            if i
            and line.startswith("(Hardware Port:")
            and not line.rstrip().endswith("Device: )")
            and ") " in lines[i - 1]
        ]
        asked = ("-getinfo", "-getadditionalroutes")
        return [("networksetup", what, name.strip()) for name in names for what in asked]
    if kind == "linux":
        rows = outputs.get(key(first_commands("linux")[3]), "").splitlines()
        # The UUID comes first and holds no colon; a connection's name may.
        found = [row.partition(":")[0] for row in rows if ":802-3-ethernet:" in row or ":802-11-wireless:" in row]
        return [("nmcli", "-t", "-f", NM_FIELDS, "connection", "show", uuid) for uuid in found]
    return []


def key(command: Sequence[str]) -> str:
    """Under which name a command's output is kept."""
    return " ".join(command)


def gather(kind: str, run: Callable[[Sequence[str]], str]) -> dict[str, str]:
    """Every command's output, by the command's own text."""
    outputs = {key(command): run(command) for command in first_commands(kind)}
    outputs.update({key(command): run(command) for command in further_commands(kind, outputs)})
    return outputs


def run_command(command: Sequence[str]) -> str:
    """Its stdout; nothing when the tool is missing, fails or does not end."""
    try:
        # English on every machine: what the tools print is read by a program. Debian's users have no sbin in PATH.
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        environment = {**os.environ, "LC_ALL": "C", "LANG": "C", "PATH": path}
        done = subprocess.run(
            command, capture_output=True, timeout=DEADLINE_S, env=environment, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # A Mac's services have names in any language, whatever the login's own encoding.
    return done.stdout.decode(errors="replace")


def main(arguments: Sequence[str]) -> int:
    """Print what was found. Exit code 2 for a wrong call."""
    if len(arguments) == 2 and arguments[0] == "commands" and arguments[1] in _FIRST:
        print(json.dumps([key(command) for command in first_commands(arguments[1])]))
        return 0
    if len(arguments) not in (2, 3) or arguments[1] not in _FIRST:
        print(f"usage: gather.py NODE|commands {'|'.join(_FIRST)} [SSH_CONNECTION]", file=sys.stderr)
        return 2
    node, kind = arguments[:2]
    outputs = gather(kind, run_command)
    # sudo drops the variable, so the caller may give it.
    outputs[SSH] = arguments[2] if len(arguments) == 3 else os.environ.get(SSH, "")
    json.dump({"schema": SCHEMA, "node": node, "kind": kind, "outputs": outputs}, sys.stdout, indent=1, sort_keys=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
