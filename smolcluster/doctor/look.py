"""Runs on a machine, with nothing but Python's standard library: looks around and prints one JSON object.

    python3 look.py PYTHON WORKDIR CONTROLLER_TIME NODE

PYTHON is the interpreter that the inventory names for smolcluster; it may not be there yet. CONTROLLER_TIME is the
controller's clock (seconds) when it asked, NODE the machine's name in the inventory. It reads and changes nothing. What
cannot be told is null.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SCHEMA = 1
_ASK_S = 20.0
# What an installation says of itself, without importing torch.
_VERSIONS = (
    "import json, platform; from importlib import metadata\n"
    "def version(name):\n"
    "    try: return metadata.version(name)\n"
    "    except metadata.PackageNotFoundError: return None\n"
    "try:\n"
    "    import smolcluster; own = smolcluster.__version__\n"
    "except ImportError: own = None\n"
    "try:\n"
    "    from smolcluster.codehash import code_hash; code = code_hash()\n"
    "except (ImportError, OSError): code = None\n"
    "found = {'python': platform.python_version(), 'smolcluster': own, 'torch': version('torch'), 'code': code}\n"
    "print(json.dumps(found))\n"
)
# What it finds of a node's certificate: as its peers would, by its own clock and files.
_CERTIFICATE = (
    "import json, sys\n"
    "from smolcluster.certs.checking import check_node, fingerprint\n"
    "from smolcluster.certs.places import node_folder\n"
    "from smolcluster.errors import InputError\n"
    "folder, found = node_folder(sys.argv[1]), {}\n"
    "try: found['authority'] = fingerprint(folder.ca)\n"
    "except (OSError, ValueError): pass\n"
    "try: check_node(folder, sys.argv[1], found.get('authority', ''))\n"
    "except InputError as error:\n"
    "    found.update(what=error.problems[0].what.split(': ', 1)[-1], fix=error.problems[0].fix)\n"
    "print(json.dumps(found))\n"
)
# A Raspberry Pi's firmware: where the kernel has its word, in hexadecimal; newer kernels do not, and vcgencmd asks it.
_PI_FIRMWARE = "soc*/*firmware/get_throttled"
# Bits that are on now, and (16 higher) that were since it was started.
_PI_BITS = {0: "too little voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


def ask(command: Sequence[str]) -> str | None:
    """A command's stdout; None when it is missing, fails or does not end."""
    try:
        environment = {**os.environ, "LC_ALL": "C", "LANG": "C"}
        done = subprocess.run(
            command, capture_output=True, timeout=_ASK_S, env=environment, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def versions(python: str) -> dict[str, str | None]:
    """Of the interpreter that runs smolcluster here; all None where there is none."""
    told = ask([str(Path(python).expanduser()), "-c", _VERSIONS])
    try:
        return dict(json.loads(told or ""))
    except ValueError:
        return {"python": None, "smolcluster": None, "torch": None, "code": None}


def certificate(python: str, node: str) -> dict[str, str] | None:
    """What the interpreter that runs smolcluster here finds of this node's; None where there is none that could."""
    told = ask([str(Path(python).expanduser()), "-c", _CERTIFICATE, node])
    try:
        return dict(json.loads(told or ""))
    except ValueError:
        return None


def free_disk_mb(workdir: str) -> int | None:
    """Where runs lie, or will lie."""
    folder = Path(workdir).expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free >> 20
    except OSError:
        return None


def memory_mb() -> tuple[int | None, int | None]:
    """All of it, and what is free or could be freed at once."""
    if sys.platform == "win32":
        return windows_memory_mb()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        said = {line.split(":")[0]: int(line.split()[1]) >> 10 for line in lines if line.endswith(" kB")}
        return said.get("MemTotal"), said.get("MemAvailable")
    except (OSError, ValueError):
        pass
    total = ask(["sysctl", "-n", "hw.memsize"])
    pages = ask(["vm_stat"])
    free = None
    if pages is not None:
        size = re.search(r"page size of (\d+)", pages)
        counts = re.findall(r"Pages (?:free|inactive|speculative|purgeable):\s+(\d+)", pages)
        free = sum(map(int, counts)) * int(size[1]) >> 20 if size else None
    return (int(total) >> 20 if total and total.strip().isdigit() else None), free


def windows_memory_mb() -> tuple[int | None, int | None]:
    """The same of a Windows PC."""
    import ctypes

    class Status(ctypes.Structure):
        # MEMORYSTATUSEX: its own length, a percentage, then total and available of memory, page file and addresses.
        _fields_ = (("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("bytes", ctypes.c_uint64 * 7))

    status = Status(length=ctypes.sizeof(Status))
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return status.bytes[0] >> 20, status.bytes[1] >> 20


def processor() -> str | None:
    """The chip's name: a Mac tells it by sysctl (not tried on a real one), Linux in a file; else what Python knows."""
    if sys.platform == "darwin":
        told = ask(["sysctl", "-n", "machdep.cpu.brand_string"])
        return (told or "").strip() or platform.processor() or None
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = next((line for line in lines if line.startswith(("model name", "Model", "Hardware"))), "")
    return told.partition(":")[2].strip() or platform.processor() or None


def temperature_c() -> float | None:
    """The hottest zone that Linux tells; a Mac tells none without an administrator."""
    found = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):
            continue
    return max((value for value in found if 0 < value < 150), default=None)


def throttled() -> str | None:
    """What slows the machine down now; "" for nothing, None where nobody tells."""
    for told_by_kernel in Path("/sys/devices/platform").glob(_PI_FIRMWARE):
        try:
            return pi_throttled("0x" + told_by_kernel.read_text(encoding="ascii").strip().removeprefix("0x"))
        except (OSError, UnicodeDecodeError):
            continue
    told = ask(["vcgencmd", "get_throttled"])
    if told is not None and (said := pi_throttled(told)) is not None:
        return said
    told = ask(["pmset", "-g", "therm"])
    return mac_throttled(told) if told is not None else None


def pi_throttled(told: str) -> str | None:
    """From the bits of a Raspberry Pi's firmware."""
    bits = re.search(r"0x([0-9a-fA-F]+)", told)
    if bits is None:
        return None
    value = int(bits[1], 16)
    return ", ".join(what for bit, what in _PI_BITS.items() if value >> bit & 1)


def mac_throttled(told: str) -> str:
    """From `pmset -g therm`: Intel Macs tell a limit of the clock, others a warning level when it is too late."""
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", told)
    if limit and int(limit[1]) < 100:
        return f"clock limited to {limit[1]} %"
    level = re.search(r"(?i)thermal (?:warning )?level\D{0,40}?(\d+)", told)
    return f"thermal warning level {level[1]}" if level and int(level[1]) else ""


def look(python: str, workdir: str, controller_time: float, node: str) -> dict[str, object]:
    """All of it."""
    now = time.time()
    total, free = memory_mb()
    return {
        "schema": SCHEMA,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions(python),
        "clock": {"asked": controller_time, "here": now},
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "disk_free_mb": free_disk_mb(workdir),
        "memory_mb": total,
        "memory_free_mb": free,
        "temperature_c": temperature_c(),
        "throttled": throttled(),
        "certificate": certificate(python, node),
    }


def main(arguments: Sequence[str]) -> int:
    """Print what was found. Exit code 2 for a wrong call."""
    if len(arguments) != 4:
        print("usage: look.py PYTHON WORKDIR CONTROLLER_TIME NODE", file=sys.stderr)
        return 2
    json.dump(look(arguments[0], arguments[1], float(arguments[2]), arguments[3]), sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
