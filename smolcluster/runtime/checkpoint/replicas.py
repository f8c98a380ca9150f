"""The same file on other nodes, so that a run survives a lost disk: each rank's goes to the next nodes, in a ring.

It travels from memory to the other node's disk, between the saving threads, in a process group of its own: what
the training sends is neither waited for nor mixed with it. A node whose disk refuses goes on receiving, and says so at
the end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from smolcluster.files import explain
from smolcluster.plan.types import RankPlan
from smolcluster.runtime.checkpoint.files import CHUNK_BYTES, WholeFile
from smolcluster.runtime.checkpoint.manifest import Place, copy_name
from smolcluster.runtime.checkpoint.snapshot import Snapshot
from smolcluster.runtime.context import RunContext
from smolcluster.spec.base import Frozen

log = logging.getLogger(__name__)


class Copy(Frozen):
    """A copy that a rank keeps of another's file."""

    rank: int
    place: Place
    sha256: str


@dataclass(frozen=True)
class Transfer:
    """A file's way: from the rank it belongs to, to a rank of another node."""

    source: int
    target: int


@dataclass
class Received:
    """What a rank got from others, and what it could not keep."""

    copies: list[Copy] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def transfers(ranks: Sequence[RankPlan], replicas: int) -> tuple[Transfer, ...]:
    """Who sends to whom, in the same order everywhere. Never to a rank of the same node; fewer where nodes are few."""
    nodes = list(dict.fromkeys(rank.node for rank in ranks))
    members = {node: [rank.rank for rank in ranks if rank.node == node] for node in nodes}
    found = []
    for number, node in enumerate(nodes):
        for step in range(1, min(replicas, len(nodes))):
            others = members[nodes[(number + step) % len(nodes)]]
            found += [Transfer(rank, others[i % len(others)]) for i, rank in enumerate(members[node])]
    return tuple(sorted(found, key=lambda t: (t.source, t.target)))


class Replicas:
    """One rank's part in keeping copies. All ranks make one at the same time: it opens a group."""

    def __init__(self, context: RunContext, patience_s: float) -> None:
        ways = transfers(context.plan.ranks, context.run.checkpoint.replicas)
        self._context = context
        self._to = [way.target for way in ways if way.source == context.rank]
        self._from = [way.source for way in ways if way.target == context.rank]
        self._group = dist.new_group(timeout=timedelta(seconds=patience_s)) if ways else None
        self._room = torch.empty(0, dtype=torch.uint8)
        wanted, nodes = context.run.checkpoint.replicas, len({rank.node for rank in context.plan.ranks})
        if context.rank == 0 and wanted > nodes:
            log.warning("checkpoint.replicas is %d, and there are %d nodes: each file lies on %d", wanted, nodes, nodes)

    def exchange(self, snapshot: Snapshot, folder: Path) -> Received:
        """Send this rank's file to whom it goes, and write those that come into `folder`. Blocks until both is done."""
        received = Received()
        if self._group is None:
            return received
        failed: list[BaseException] = []
        sender = threading.Thread(
            target=_guarded, args=(lambda: self._send_all(snapshot), failed), name="smol-replicas", daemon=True
        )
        sender.start()
        _guarded(lambda: self._receive_all(folder, received), failed)
        if not failed:
            sender.join()
        if failed:
            raise failed[0]
        return received

    def _send_all(self, snapshot: Snapshot) -> None:
        header = torch.frombuffer(bytearray(snapshot.header), dtype=torch.uint8)
        sizes = torch.tensor([header.numel(), snapshot.body.numel()], dtype=torch.int64)
        for target in self._to:
            for part in (sizes, header, *snapshot.body.split(CHUNK_BYTES)):
                if part.numel():
                    dist.send(part, target, group=self._group)

    def _receive_all(self, folder: Path, received: Received) -> None:
        for source in self._from:
            sizes = torch.empty(2, dtype=torch.int64)
            dist.recv(sizes, source, group=self._group)
            header, body = sizes.tolist()
            parts = [header, *(min(CHUNK_BYTES, body - start) for start in range(0, body, CHUNK_BYTES))]
            self._receive(source, [size for size in parts if size], folder / copy_name(source), received)

    def _receive(self, source: int, sizes: Sequence[int], path: Path, received: Received) -> None:
        """One file. After an error of the disk the rest is received all the same: the sender must not wait for us."""
        node = self._context.me.node
        with contextlib.ExitStack() as stack:
            file: WholeFile | None = None
            try:
                file = stack.enter_context(WholeFile(path))
            except OSError as error:
                received.failures.append(f"{node} could not write {path}: {explain(error)}")
            for size in sizes:
                if self._room.numel() < size:
                    self._room = torch.empty(size, dtype=torch.uint8)
                part = self._room[:size]
                dist.recv(part, source, group=self._group)
                file = _keep(file, partial(_append, part), node, received)
            file = _keep(file, WholeFile.commit, node, received)
            if file is not None:
                copy = Copy(rank=source, place=Place(node=node, name=path.name), sha256=file.sha256)
                received.copies.append(copy)


def _append(part: torch.Tensor, file: WholeFile) -> None:
    file.write(part.numpy().data)


def _keep(file: WholeFile | None, act: Callable[[WholeFile], None], node: str, received: Received) -> WholeFile | None:
    """Do something with a file that is still good; None once it is not."""
    if file is None:
        return None
    try:
        act(file)
    except OSError as error:
        received.failures.append(f"{node} could not write {file.path}: {explain(error)}")
        return None
    return file


def _guarded(act: Callable[[], None], failed: list[BaseException]) -> None:
    try:
        act()
    except BaseException as error:  # noqa: BLE001  raised by the thread that waits
        failed.append(error)
