"""What smolcluster.network works out, on hosts that really route: everybody reaches everybody, and stays reachable."""

from __future__ import annotations

import subprocess
from itertools import permutations

import pytest

from smolcluster.topology import Topology

from . import Lab
from .configured import configure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _reached(lab: Lab) -> set[tuple[str, str]]:
    """Who gets an answer from whom at the address that a run would dial."""
    topology = Topology(lab.wiring.cluster)
    asked: dict[str, dict[str, str]] = {}
    for src, dst in permutations(lab.hosts, 2):
        said = topology.address_of(src, dst)
        name = said.removesuffix(".local")
        asked.setdefault(src, {})[dst] = lab.wiring.wifi_address(name) or said if said != name else said
    # All at once: what does not answer costs its deadline once.
    script = 'for a in "$@"; do ping -n -q -c 3 -i 0.3 {wait} "$a" >/dev/null && echo "$a" & done; wait'
    running = {}
    for src, addresses in asked.items():
        host = lab.host(src)
        wait = "-W 5000" if host.machine.kind == "macos" else "-W 5"
        command = ["sh", "-c", script.format(wait=wait), "sh", *addresses.values()]
        running[src] = host.popen(command, stdout=subprocess.PIPE)
    found = set()
    for src, process in running.items():
        answered = process.communicate(timeout=120)[0].decode().split()
        found |= {(src, dst) for dst, address in asked[src].items() if address in answered}
    return found


def test_all_reach_all_but_where_the_plan_says_so(lab: Lab) -> None:
    pairs = set(permutations(lab.hosts, 2))
    # Bare, a Pi reaches nobody by an address of the inventory.
    assert not any(src in ("pi5", "pi4") or dst in ("pi5", "pi4") for src, dst in _reached(lab))
    wanted = configure(lab)
    # Nobody can give a tablet a route to a Pi's cable, and the plan says so.
    assert any(note.startswith("ipad: nobody can set routes on it") for note in wanted.notes)
    expected = pairs - {pair for pi in ("pi5", "pi4") for pair in ((pi, "ipad"), ("ipad", pi))}
    assert _reached(lab) == expected
    # It lasts: the Mac in the middle and a Pi come back as they were.
    lab.reboot("mini1")
    lab.reboot("pi5")
    lab.host("mini1").run(
        ["sh", "-c", 'until [ "$(sysctl -n net.inet.ip.forwarding)" = 1 ]; do sleep 0.1; done'], timeout=60
    )
    assert _reached(lab) == expected


def test_pis_can_be_kept_from_each_other(namespaces: None) -> None:
    with Lab(only=["macbook", "mini1", "mini2", "mini3", "pi5", "pi4"]) as lab:
        configure(lab, pis_reach_each_other=False)
        assert set(permutations(lab.hosts, 2)) - _reached(lab) == {("pi5", "pi4"), ("pi4", "pi5")}
