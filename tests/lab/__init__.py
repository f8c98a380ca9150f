"""The documentation's home cluster on one machine: hosts in network namespaces, each with its own root and sshd.

    wiring.py   which hosts and cables there are, from an inventory (pure)
    lab.py      the lab itself       host.py   a host       link.py   a cable
    outside.py  the namespaces that hold it all             allowed.py   whether a lab can be on this machine
    disk.py     what a host's disk has besides the machine's files
    files.py    inventory, names, ssh's settings            configured.py   the home network set up on a lab
    inside/     what runs in the namespaces                 macos/       stand-ins for the tools of macOS

`make lab` opens a shell on the controller. Tests take the fixture `lab` (conftest.py).
"""

from __future__ import annotations

from .allowed import required, why_not
from .host import Host
from .lab import Lab
from .link import Link
from .outside import LabError

__all__ = ["Host", "Lab", "LabError", "Link", "required", "why_not"]
