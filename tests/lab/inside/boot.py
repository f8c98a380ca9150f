"""Boots one host of the lab: namespaces, a root of its own, interfaces; then its first program.

    python -m inside.boot SPEC.json

Run in the lab's outermost namespaces. SPEC (see tests/lab/host.py, which writes it):

layers    [folder]: laid over the machine's own files
disk      a folder with `upper`, `work`, `root`: what differs from the machine's own files, kept over reboots
kept      {path: folder}: shown at path, kept over reboots     shown     [path]: the machine's, writes stay in the lab
owned     {path: user number}: whose those of `shown` are, as far as they are there
tools     {path: folder}: shown at path, read only             scratch   [path]: empty at each boot
ports     [{device, mac, outer, mtu, max_mtu, bridge, rate}]: a cable's end named `device` in the host, whose other end
          is `outer` out here, down, in `bridge` ("" none), shaped at both ends to `rate` (tc's words, "" not)
cgroups   [path]: what the host's processes belong to          name, program, environment

Ends when the host does. An error is one line on standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import syscalls

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "net/tun")
# Of /proc/sys only the network's part belongs to the host's namespaces; the rest is the machine's.
_OWN_SETTINGS = "/proc/sys/net"
# A new network namespace may begin with the machine's own settings. No forwarding until it is switched on; addresses
# are usable at once; anybody may ping.
_SETTINGS = {
    "ipv4/ip_forward": "0",
    "ipv6/conf/all/forwarding": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv4/ping_group_range": "0 2147483647",
}
_NOT_OURS = ("/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")


def main() -> None:
    os.umask(0o022)
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    for cgroup in spec["cgroups"]:
        Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    syscalls.unshare(syscalls.NEW_ALL)
    plugged, plug = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(plug)
        syscalls.die_with_parent(0)
        try:
            _become_host(spec, plugged)
        except OSError as error:
            print(f"{spec['name']}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os.close(plugged)
    _plug_in(spec["ports"], child, outside)
    os.write(plug, b".")
    os.close(plug)
    print(child, flush=True)
    os.waitpid(child, 0)


def _plug_in(ports: list[dict[str, Any]], host: int, outside: int) -> None:
    """Make the host's interfaces; their other ends are out here. Begins and ends in the host's network namespace."""
    inside = os.open("/proc/self/ns/net", os.O_RDONLY)
    for setting, value in _SETTINGS.items():
        Path("/proc/sys/net", setting).write_text(value)
    syscalls.join(outside, syscalls.NEW_NETWORK)
    _batch("ip", [line for port in ports for line in _made(port, host)])
    _batch("tc", [f"qdisc add dev {port['outer']} root {port['rate']}" for port in ports if port["rate"]])
    syscalls.join(inside, syscalls.NEW_NETWORK)
    _batch("tc", [f"qdisc add dev {port['device']} root {port['rate']}" for port in ports if port["rate"]])
    os.close(inside)


def _made(port: dict[str, Any], host: int) -> list[str]:
    own = f"link add {port['device']} netns /proc/{host}/ns/net address {port['mac']} mtu {port['mtu']} type veth"
    lines = [f"{own} peer name {port['outer']} mtu {port['max_mtu']}"]
    if port["bridge"]:
        lines.append(f"link set {port['outer']} master {port['bridge']}")
    return lines


def _batch(program: str, lines: list[str]) -> None:
    if lines:
        subprocess.run([program, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _become_host(spec: dict[str, Any], plugged: int) -> None:
    syscalls.mount("none", "/", flags=syscalls.RECURSIVE | syscalls.PRIVATE)
    root = _root(spec)
    _system(root, spec["scratch"])
    for path, folder in spec["kept"].items():
        syscalls.bind(folder, _place(root, path))
    for number, path in enumerate(spec["shown"]):
        _overlay(path, f"{spec['disk']}/shown-{number}", _place(root, path))
    for path, user in spec["owned"].items():
        if Path(f"{root}{path}").is_dir():
            os.chown(f"{root}{path}", user, user)
    for path, folder in spec["tools"].items():
        syscalls.bind(folder, _place(root, path), read_only=True)
    syscalls.set_host_name(spec["name"])
    if not os.read(plugged, 1):
        raise OSError("its interfaces could not be made")
    os.close(plugged)
    syscalls.enter_root(root)
    os.setsid()
    program = spec["program"]
    os.execve(program[0], program, spec["environment"])


def _root(spec: dict[str, Any]) -> str:
    _overlay(":".join([*spec["layers"], "/"]), spec["disk"], f"{spec['disk']}/root")
    return f"{spec['disk']}/root"


def _overlay(lower: str, disk: str, target: str) -> None:
    for name in ("upper", "work"):
        Path(disk, name).mkdir(parents=True, exist_ok=True)
    Path(target).mkdir(parents=True, exist_ok=True)
    syscalls.mount("overlay", target, "overlay", data=f"lowerdir={lower},upperdir={disk}/upper,workdir={disk}/work")


def _place(root: str, path: str) -> str:
    """Where `path` of the host is now. Links among its parents lead within the host: /sbin is a link."""
    place = root
    for part in Path(path).parts[1:]:
        place = f"{place}/{part}"
        if Path(place).is_symlink():
            place = f"{root}/{str(Path(place).readlink()).lstrip('/')}"
    Path(place).mkdir(parents=True, exist_ok=True)
    return place


def _system(root: str, scratch: list[str]) -> None:
    """/proc, /sys, /dev and what is empty at each boot."""
    syscalls.mount("proc", f"{root}/proc", "proc")
    syscalls.bind(f"{root}/proc/sys", f"{root}/proc/sys", read_only=True)
    # A bind of a subtree of the read-only one is a mount of its own, so its flags are too.
    syscalls.mount(f"{root}{_OWN_SETTINGS}", f"{root}{_OWN_SETTINGS}", flags=syscalls.BIND)
    syscalls.mount(f"{root}{_OWN_SETTINGS}", f"{root}{_OWN_SETTINGS}", flags=syscalls.BIND | syscalls.REMOUNT)
    for path in _NOT_OURS:
        if Path(f"{root}{path}").exists():
            syscalls.bind(f"{root}{path}", f"{root}{path}", read_only=True)
    syscalls.mount("sysfs", f"{root}/sys", "sysfs", syscalls.READ_ONLY)
    # Seen from this cgroup namespace the hierarchy begins at the host's own cgroup.
    syscalls.mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2")
    syscalls.mount("tmpfs", f"{root}/dev", "tmpfs", syscalls.NO_SUID, "mode=755,size=1m")
    for name in _DEVICES:
        if Path("/dev", name).exists():
            Path(root, "dev", name).parent.mkdir(exist_ok=True)
            Path(root, "dev", name).touch()
            syscalls.mount(f"/dev/{name}", f"{root}/dev/{name}", flags=syscalls.BIND)
    for name, target in {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        Path(root, "dev", name).symlink_to(target)
    for name in ("pts", "shm"):
        Path(root, "dev", name).mkdir()
    syscalls.mount("devpts", f"{root}/dev/pts", "devpts", data="newinstance,ptmxmode=0666,mode=620,gid=5")
    Path(root, "dev/ptmx").symlink_to("pts/ptmx")
    syscalls.mount("tmpfs", f"{root}/dev/shm", "tmpfs", data="mode=1777")
    for path in scratch:
        mode = "755" if path == "/run" else "1777"
        syscalls.mount("tmpfs", f"{root}{path}", "tmpfs", syscalls.NO_SUID | syscalls.NO_DEVICES, f"mode={mode}")


if __name__ == "__main__":
    main()
