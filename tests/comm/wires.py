"""Links without processes: socket pairs in one process, for tests of what runs on top of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from smolcluster.comm.clock import Deadline
from smolcluster.comm.handshake import Identity
from smolcluster.comm.link import Link
from smolcluster.comm.wire import Wire

ME = Identity(run_id="r1", generation=3, digest="d" * 64, rank=1, world_size=3, secret=b"k" * 32)
SERVER = replace(ME, rank=0)


def socket_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets on loopback, closed with the stack."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    stack.callback(one.close)
    stack.callback(other.close)
    return one, other


def link_pair(stack: ExitStack, low: int = 0, high: int = 1, timeout_s: float = 5.0) -> tuple[Link, Link]:
    """Both ends of a link between two ranks: (the low rank's, the high rank's)."""
    there, back = socket_pair(stack), socket_pair(stack)
    mine = Link(high, "test", Wire(there[0], f"rank {high}"), Wire(back[1], f"rank {high}"), timeout_s)
    theirs = Link(low, "test", Wire(back[0], f"rank {low}"), Wire(there[1], f"rank {low}"), timeout_s)
    return mine, theirs


def together(*calls: Callable[[], Any], within_s: float = 60.0) -> list[Any]:
    """Run calls in threads; their values or the exceptions they raised."""
    results: list[Any] = [None] * len(calls)

    def one(index: int) -> None:
        try:
            results[index] = calls[index]()
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    deadline = Deadline(within_s)
    for thread in threads:
        thread.join(deadline.left())
        assert not thread.is_alive(), "a call hangs"
    return results


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Threads of another side need a moment to see what happened."""
    pause, deadline = threading.Event(), Deadline(within_s)
    while not condition():
        assert not deadline.expired
        pause.wait(0.01)


def body_of(count: int) -> torch.Tensor:
    """Bytes that differ from their neighbours."""
    return torch.arange(count, dtype=torch.int64).mul_(37).remainder_(251).to(torch.uint8)
