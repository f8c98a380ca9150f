"""The first program of a host without systemd: a Mac, or a plain member of a network.

A plain member gets its Wi-Fi address as if from the access point; a Mac's configuration does that (macos/configd.py).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

from .launchd import Launchd

STATE = Path("/opt/lab-state/hosts")


def main() -> None:
    host = json.loads((STATE / f"{socket.gethostname()}.json").read_text())
    os.umask(0o022)
    os.environ["PATH"] = "/opt/lab-bin:/usr/bin:/bin:/usr/sbin:/sbin"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    launchd = Launchd()
    if host["kind"] == "macos":
        from macos import configd

        configd.boot()
    else:
        for device, lease in host["leases"].items():
            subprocess.run(["ip", "address", "add", lease["address"], "dev", device], check=True)
            subprocess.run(["ip", "link", "set", device, "up"], check=True)
            subprocess.run(["ip", "route", "add", "default", "via", lease["router"]], check=True)
    Path("/run/sshd").mkdir()
    ssh = {"Label": "com.openssh.sshd", "ProgramArguments": ["/usr/sbin/sshd", "-D"], "KeepAlive": True}
    launchd.load(ssh)
    if host["kind"] == "macos":
        launchd.load_all()
    launchd.run()


if __name__ == "__main__":
    main()
