"""Opening and closing: configuration, endpoint files, the gloo transport, wrong ranks, ports in use."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm import open_fabric
from smolcluster.comm.announce import announce, find
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import DeadlineError, PeerError
from tests.comm.pool import Pool, settings


def describe(fabric: Any) -> tuple[str, int, int, float]:
    x = torch.ones(4)
    dist.all_reduce(x)
    return dist.get_backend(), dist.get_rank(), dist.get_world_size(), x[0].item()


def test_the_default_group_is_there(pool: Pool) -> None:
    assert pool.run(3, describe) == [("smol", rank, 3, 3.0) for rank in range(3)]


def test_transport_gloo_uses_the_same_store(pool: Pool) -> None:
    assert pool.run(2, describe, transport="gloo") == [("gloo", rank, 2, 2.0) for rank in range(2)]


def gloo_bytes(fabric: Any) -> int:
    dist.all_reduce(torch.ones(4))
    before = fabric.counters().bytes_out
    dist.all_reduce(torch.ones(1_000_000))
    dist.barrier()
    descriptors = len(os.listdir("/proc/self/fd"))
    fabric.counters()
    assert len(os.listdir("/proc/self/fd")) == descriptors, "looking must not leave anything open"
    return fabric.counters().bytes_out - before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what other people's sockets moved")
def test_gloos_bytes_are_counted_on_its_sockets(pool: Pool) -> None:
    for moved in pool.run(2, gloo_bytes, transport="gloo"):
        assert 4_000_000 <= moved < 4_100_000


def listening(fabric: Any) -> list[str]:
    import psutil

    dist.all_reduce(torch.ones(4))
    return [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]


@pytest.mark.parametrize("transport", ["smol", "gloo"])
def test_nothing_listens_on_all_interfaces(pool: Pool, transport: str) -> None:
    for addresses in pool.run(2, listening, transport=transport):
        assert addresses
        assert set(addresses) == {"127.0.0.1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return opened.getsockname()[1]


def test_fixed_ports_need_no_endpoint_file(pool: Pool) -> None:
    port = free_port()
    values = pool.run(3, describe, endpoint_file=None, peer_ports={0: port}, per_rank={0: {"port": port}})
    assert len(values) == 3


def test_ranks_on_different_addresses(pool: Pool) -> None:
    hosts = {rank: f"127.0.0.{rank + 2}" for rank in range(3)}
    per_rank = {rank: {"listen": (host,)} for rank, host in hosts.items()}
    assert len(pool.run(3, describe, peers=hosts, per_rank=per_rank)) == 3


def test_the_last_rank_needs_no_address(pool: Pool) -> None:
    assert len(pool.run(2, describe, per_rank={1: {"listen": ()}})) == 2


@pytest.mark.parametrize(
    ("wrong", "kind", "reason"),
    [
        ({"secret": b"x" * 32}, "HandshakeError", "the run's secret differs"),
        ({"generation": 4, "endpoint_file": None}, "OtherStartError", "generation 4 of the run, not 0"),
        ({"digest": "0" * 64}, "HandshakeError", "another plan: the digests differ"),
    ],
)
def test_a_rank_that_does_not_belong_learns_why_and_so_does_rank_0(
    pool: Pool, wrong: dict[str, Any], kind: str, reason: str
) -> None:
    port = free_port()
    outcomes = pool.outcomes(
        2, describe, peer_ports={0: port}, per_rank={0: {"port": port}, 1: wrong}, join_s=1.5, timeout_s=1.5
    )
    assert outcomes[1].error == kind
    assert reason in outcomes[1].value
    assert outcomes[0].error == "DeadlineError"
    assert outcomes[0].value.startswith("rank 1 did not connect within 1.5 s")
    assert reason in outcomes[0].value


@pytest.mark.parametrize("stranger", [1, 2])
def test_a_rank_that_is_late_is_named_to_those_who_joined(pool: Pool, stranger: int) -> None:
    """Of three ranks one has another secret: the other two are told whom they waited for."""
    pool.run(3, describe)  # 1.5 s are for ranks that have started
    port = free_port()
    per_rank = {0: {"port": port}, stranger: {"secret": b"x"}}
    outcomes = pool.outcomes(3, describe, peer_ports={0: port}, per_rank=per_rank, join_s=1.5, timeout_s=5.0)
    assert outcomes.pop(stranger).error == "HandshakeError"
    for outcome in outcomes:
        assert outcome.error == "DeadlineError"
        assert outcome.value.startswith(f"rank {stranger} did not connect within 1.5 s")


def test_a_peer_that_never_answers(pool: Pool) -> None:
    """Somebody accepts our connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(
            DeadlineError, match=r"rank 0 at 127\.0\.0\.1:\d+ connected but did not finish the handshake"
        ):
            open_fabric(settings(1, 2, peer_ports={0: port}, timeout_s=0.5, join_s=0.5))


def test_a_port_in_use_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PeerError, match=f"port {port} is in use on 127.0.0.1. Fix: "):
            open_fabric(settings(0, 2, port=port))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("smol")]


def test_rank_0_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeadlineError, match="rank 0 did not announce its port in"):
        open_fabric(settings(1, 2, endpoint_file=tmp_path / "endpoint.json", timeout_s=0.3, join_s=0.3))
    assert not dist.is_initialized()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("smol")]


def test_an_old_announcement_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "endpoint.json"
    announce(file, Endpoint("127.0.0.1", 1), "run", generation=1)
    with pytest.raises(DeadlineError):
        find(file, "run", 2, Deadline(0.1))
    announce(file, Endpoint("127.0.0.1", 2), "run", generation=2)
    assert find(file, "run", 2, Deadline(0.1)) == Endpoint("127.0.0.1", 2)
    assert json.loads(file.read_text())["port"] == 2
    file.write_text("{ half")
    with pytest.raises(DeadlineError):
        find(file, "run", 2, Deadline(0.1))


def reopen(fabric: Any) -> int:
    before = fabric.counters().bytes_out
    fabric.close()
    fabric.close()  # idempotent
    assert not dist.is_initialized()
    assert fabric.counters().bytes_out >= before  # counts outlive the links
    return 1


def test_a_closed_fabric_can_be_opened_again(pool: Pool) -> None:
    for _ in range(3):
        assert pool.run(3, reopen) == [1, 1, 1]


def test_a_config_does_not_show_its_secret() -> None:
    assert "ssss" not in repr(settings(0, 1))
