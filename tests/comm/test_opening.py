"""How rank 0 is found when it starts again: what it announced before is not believed for long."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from smolcluster.comm.announce import announce
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import Endpoint
from smolcluster.comm.faults import Faults
from smolcluster.comm.opening import dial_rank_0, open_mesh
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError
from smolcluster.spec.faults import FaultSpec

WAIT_S = 60.0


def config(rank: int, folder: Path, **changes) -> GroupConfig:
    mine = GroupConfig(
        rank=rank,
        world_size=3,
        listen=() if rank else ("127.0.0.1",),
        port=0,
        peers=dict.fromkeys(range(3), "127.0.0.1"),
        timeout_s=10.0,
        run_id="opening",
        secret=b"a secret of the tests",
        endpoint_file=folder / "endpoint.json",
    )
    return replace(mine, **changes)


def dial(folder: Path, within_s: float = WAIT_S, stop: threading.Event | None = None, **changes):
    mine = config(1, folder, **changes)
    mesh = open_mesh(mine)
    return mesh, dial_rank_0(mesh, mine, "x", Deadline(within_s), stop or threading.Event())


def test_a_port_that_is_another_s_by_now_is_looked_up_again(tmp_path: Path) -> None:
    """The port of rank 0's last process may be nobody's, or anybody's: here another rank's of the same run."""
    other = open_mesh(config(2, tmp_path, listen=("127.0.0.1",)))
    assert other.listener is not None
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = Endpoint("127.0.0.1", closed.getsockname()[1])
    head = open_mesh(config(0, tmp_path))
    assert head.listener is not None
    for stale in (nobody, other.listener.endpoint):
        announce(tmp_path / "endpoint.json", stale, "opening", 0)
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(dial, tmp_path)
            while not (other.listener.refusals or stale is nobody):
                threading.Event().wait(0.01)
            announce(tmp_path / "endpoint.json", head.listener.endpoint, "opening", 0)
            mesh, link = asked.result(WAIT_S)
        head.drop(head.link(1, "x", deadline=Deadline(WAIT_S)))
        mesh.drop(link)
    assert any("this is rank 2" in str(error) for error in other.listener.refusals)
    for mesh in (other, head):
        assert mesh.listener is not None
        mesh.listener.close()


def test_at_a_fixed_port_a_refusal_is_final(tmp_path: Path) -> None:
    head = open_mesh(config(0, tmp_path))
    assert head.listener is not None
    ports = {0: head.listener.endpoint.port}
    with pytest.raises(HandshakeError, match="secret"):
        dial(tmp_path, peer_ports=ports, secret=b"another secret")
    head.listener.close()
    with pytest.raises(DeadlineError, match=r"rank 0 was not reached within 0\.5 s: nobody listens"):
        dial(tmp_path, 0.5, peer_ports=ports)


@pytest.mark.parametrize("asked", [False, True])
def test_links_lead_through_a_relay_only_where_a_fault_is_asked_for(tmp_path: Path, asked: bool) -> None:
    specs = [FaultSpec(kind="delay", rank=1, step=1, ms=1.0)]
    head = open_mesh(config(0, tmp_path))
    assert head.listener is not None
    ports = {0: head.listener.endpoint.port}
    mesh, link = dial(tmp_path, peer_ports=ports, faults=Faults(specs, 1, 0) if asked else None)
    family = socket.AF_UNIX if asked and hasattr(socket, "AF_UNIX") else socket.AF_INET
    assert (link.out.sock.family, link.inward.sock.family) == (family, socket.AF_INET)
    mesh.drop(link)
    head.drop(head.link(1, "x", deadline=Deadline(WAIT_S)))
    head.listener.close()


def test_somebody_who_is_to_stop_does_not_dial_on(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(PeerLostError, match="this rank is to stop"):
        dial(tmp_path, stop=stop)
    with pytest.raises(PeerError, match="did not announce its port"):
        dial(tmp_path, 0.3)
