"""certificates.yml on the home cluster: what crosses the Wi-Fi can be read before it, and no more after it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from . import Lab
from .configured import configure
from .disk import USER
from .host import Host
from .training import SMALL, Trained, call, inventory_of, train

# A play takes half a minute; on a machine that is busy with other tests several.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_NODES = ("mini1", "macbook", "pi5")
_PORT = 65432
# Prints the payload bytes of TCP at a port that pass this host, and of the given words those that were among them, once
# its stdin ends.
_EAVESDROP = """
import socket, struct, sys, threading
port, words = int(sys.argv[1]), [word.encode() for word in sys.argv[2:]]
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.settimeout(0.2)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
print("listening", flush=True)
count, seen = 0, set()
while not over.is_set():
    try:
        packet, (device, *_) = heard.recvfrom(1 << 17)
    except TimeoutError:
        continue
    if device == "lo" or packet[12:14] != b"\\x08\\x00" or packet[23] != 6:
        continue
    tcp = packet[14 + (packet[14] & 15) * 4 : 14 + struct.unpack("!H", packet[16:18])[0]]
    if port in struct.unpack("!HH", tcp[:4]):
        payload = tcp[(tcp[12] >> 4) * 4 :]
        count += len(payload)
        seen |= {word.decode() for word in words if word in payload}
print(count, *sorted(seen), flush=True)
"""


@dataclass
class Heard:
    """What an eavesdropper has of a run: bytes, and which of the words were readable."""

    bytes: int = 0
    words: set[str] = field(default_factory=set)


@contextmanager
def eavesdropping(host: Host, *words: str) -> Iterator[Heard]:
    """Listen on all of a host's wires meanwhile."""
    heard = Heard()
    command = [sys.executable, "-c", _EAVESDROP, str(_PORT), *words]
    spy = host.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert spy.stdout is not None
        assert spy.stdout.readline() == b"listening\n"
        yield heard
        told, _ = spy.communicate(timeout=60)
        count, *found = told.decode().split()
        heard.bytes, heard.words = int(count), set(found)
    finally:
        spy.kill()
        spy.wait(30)


@pytest.fixture(scope="module")
def home(lab: Lab) -> Lab:
    configure(lab)
    lab.controller.write(inventory_of(lab), lab.inventory(), owner=USER)
    return lab


def _run(home: Lab) -> tuple[Trained, Heard]:
    settings = (*SMALL, "training.batch_size=2", "staleness_bound=0")
    # What a greeting says of the run, and a name that a frame of the store's carries.
    with eavesdropping(home.controller, '"channel":', '"generation":') as heard:
        run = train(home, _NODES, "classicdp", f"nodes={','.join(_NODES)}", settings=settings)
    return run, heard


def test_what_crosses_the_wifi_can_be_read_until_there_are_certificates(home: Lab) -> None:
    clear, heard = _run(home)
    assert heard.bytes > 1_000_000
    assert heard.words == {'"channel":', '"generation":'}
    said = " ".join(clear.text.split())
    assert "network wifi: this wire is not private: traffic is authenticated but not encrypted until" in said
    flags = ("-i", inventory_of(home), "-e", f"nodes={','.join(_NODES)}")
    made = call(home, "ansible-playbook", "certificates.yml", *flags)
    assert made.returncode == 0, made.stdout + made.stderr
    again = call(home, "ansible-playbook", "certificates.yml", *flags)
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(re.findall(r"changed=(\d+)", again.stdout)) == {"0"}, again.stdout

    safe, now = _run(home)
    assert now.bytes > 1_000_000
    assert now.words == set()
    plan = json.loads((safe.folder / "plan.json").read_text())
    # The cable between mini1 and the Pi is declared private.
    assert [rank["encrypt"] for rank in plan["ranks"]] == [
        {"1": True, "2": False},
        {"0": True, "2": True},
        {"0": False, "1": True},
    ]
    said = " ".join(safe.text.split())
    assert "network wifi" not in said
    assert "network ethernet_pi5: declared private: in the clear" in said
    for rank in range(len(_NODES)):
        assert [step.loss for step in safe.steps(rank)] == [step.loss for step in clear.steps(rank)]
