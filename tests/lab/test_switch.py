"""The shaped links that benchmarks train over: they are as slow as they should be, and go with whoever made them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.formats import pays_below
from benchmarks.ranks import Team
from benchmarks.switch import Switch

pytestmark = pytest.mark.timeout(600)

_ROOT = Path(__file__).parents[2]
_OPEN = """
import sys
from benchmarks.switch import Switch
with Switch(2) as switch:
    print(*(place.namespace for place in switch.places), flush=True)
    sys.stdin.read()
"""


def _send(rank: int, world_size: int, _: object) -> dict[str, object]:
    """Rank 0 sends 2 MB to rank 1."""
    import torch
    import torch.distributed as dist

    values = torch.ones(500_000)

    def send() -> float:
        if rank == 0:
            dist.send(values, 1)
        else:
            dist.recv(values, 0)
        return float(values.sum())

    return {"send": send}


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["smol", "gloo"])
def test_ranks_on_a_switch_are_as_slow_as_their_cables(namespaces: None, transport: str) -> None:
    with Switch(2) as switch:
        assert [place.address for place in switch.places] == ["10.0.0.1", "10.0.0.2"]
        with Team(2, transport, _send, keep_memory=False, places=switch.places) as team:
            team.do("send")
            switch.speed(16)
            # No machine makes it faster than the bucket lets it be; how much slower it is says nothing here.
            sender, taker = team.do("send")
            assert taker.wall_s > 0.7 * 2e6 * 8 / 16e6
            assert sender.value == taker.value == 500_000


def test_namespaces_end_with_their_owner(namespaces: None) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, text=True
    )
    assert owner.stdout is not None
    with owner:
        holders = [psutil.Process(int(word)) for word in owner.stdout.readline().split()]
        assert len({Path(f"/proc/{holder.pid}/ns/net").readlink() for holder in holders}) == 2
        owner.kill()
    gone, left = psutil.wait_procs(holders, timeout=60)
    assert (len(gone), left) == (2, [])


def test_where_int8_begins_to_pay() -> None:
    assert pays_below({1000: 0.9, 100: 1.1}) == pytest.approx(math.sqrt(1000 * 100))
    assert pays_below({1000: 0.9, 100: 0.95}) == 0
    assert pays_below({1000: 1.2, 100: 1.5}) == math.inf
