"""Tablets in threads of this process, and connections whose other end a test moves by hand."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import PeerError
from smolcluster.models.decoder import Row
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.door import Door, dial
from smolcluster.tablet.greeting import Self, tablet_key
from smolcluster.tablet.messages import Ready
from smolcluster.tablet.reference import FORMAT, Tablet
from smolcluster.tablet.remote import Waits
from tests.infer.infer_models import CONTEXT

RUN = "20261129-1200-inference"
KEY = tablet_key(b"the run's secret")
CLUSTER = Self("cluster", RUN, "mini1", KEY)
TABLET = Self("tablet", RUN, "ipad", KEY)
# The machine is busy: nothing here waits for it to run out, unless the test is about that.
LONG = 60.0
PATIENT = Waits(connect_s=LONG, ready_s=LONG, forward_s=LONG, heartbeat_s=0.2, silence_s=LONG)


class Served:
    """A tablet that listens, as the native app does, and serves whoever comes, one after the other."""

    def __init__(self, tablet: Tablet, me: Self = TABLET) -> None:
        self.tablet = tablet
        self.door = Door(["127.0.0.1"], 0, me)
        self.ends: list[PeerError] = []
        self.served = 0
        self.channel: Channel | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def where(self) -> Endpoint:
        return self.door.endpoints[0]

    def cut(self) -> None:
        """What a lost Wi-Fi is."""
        assert self.channel is not None
        self.channel.abort()

    def close(self) -> None:
        self._closing = True
        self.door.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            try:
                self.channel = self.door.take(Deadline(LONG))
                self.served += 1
                self.tablet.serve(self.channel)
            except PeerError as error:
                self.ends.append(error)


@contextlib.contextmanager
def listening(tablet: Tablet, me: Self = TABLET) -> Iterator[Served]:
    served = Served(tablet, me)
    try:
        yield served
    finally:
        served.close()


def dialler(where: Endpoint, me: Self = CLUSTER):
    """TabletStage's `connect` for an app that listens."""
    return lambda deadline: dial(where, me, deadline)


@contextlib.contextmanager
def pair() -> Iterator[tuple[Channel, Channel]]:
    """(the cluster's end, the tablet's end) of one proven connection."""
    door = Door(["127.0.0.1"], 0, TABLET)
    mine = None
    try:
        mine = dial(door.endpoints[0], CLUSTER, Deadline(LONG))
        yield mine, door.take(Deadline(LONG))
    finally:
        if mine is not None:
            mine.abort()
            mine.close()
        door.close()


def inputs(counts, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator) for count in counts]


def local(decoder, pieces):
    cache = decoder.new_cache(CONTEXT)
    return [decoder(piece, [Row(cache, len(piece), True)]) for piece in pieces]


def remote(stage, session, pieces):
    out, position = [], 0
    for piece in pieces:
        out.append(stage.forward(session, piece, position))
        position += len(piece)
    return out


def ready_by_hand(theirs, assign):
    theirs.receive(Deadline(LONG))
    theirs.send(Ready(device="d", format=FORMAT, hash=assign.packages[FORMAT], layers=assign.layers), Deadline(LONG))
