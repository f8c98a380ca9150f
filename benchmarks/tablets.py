"""What benchmarks.tablet talks to, each in a process of its own: tablets, an echo, a stage over a smol link."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import PeerError
from smolcluster.models.decoder import Decoder, Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.runtime.process import die_with_parent
from smolcluster.tablet.blocks import Array
from smolcluster.tablet.door import Door
from smolcluster.tablet.greeting import Self, tablet_key
from smolcluster.tablet.reference import OnnxTablet, ReferenceTablet, Tablet

KEY = tablet_key(b"a secret of the benchmark")
RUN = "benchmark"
START_S = 180.0
# As the processes of a served model have it: a thread that waits for the lock gets it sooner.
SWITCH_S = 0.0005


class EchoLayers:
    """Layers that compute nothing: what is left of a token is the protocol."""

    format = "torch"

    def __init__(self, stage_hash: str, layers: str, context: int) -> None:
        self.hash, self.layers, self.context = stage_hash, layers, context

    def open(self, capacity: int) -> EchoSession:
        """A session that only counts."""
        return EchoSession(capacity)


class EchoSession:
    """Gives back what it is given."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0

    def forward(self, hidden: Array) -> Array:
        """The same rows."""
        self.length += len(hidden)
        return hidden


def middle_of(folder: str, part: tuple[int, int, int]) -> Decoder:
    """The stage that all of them have."""
    return load_stage(Path(folder), LayerRange(*part))


def echoing(stage_hash: str, layers: str, context: int) -> Tablet:
    """A tablet that computes nothing."""
    return Tablet(lambda _channel, _assign: lambda: EchoLayers(stage_hash, layers, context), "echo")


def computing(folder: str, part: tuple[int, int, int], context: int) -> Tablet:
    """The reference tablet: torch."""
    return ReferenceTablet(middle_of(folder, part), context)


def fetching(cache: str) -> Tablet:
    """Gets its ONNX file over the protocol, and computes with onnxruntime."""
    return OnnxTablet(Path(cache))


@contextmanager
def tablet(make: Callable[..., Tablet], *arguments: Any) -> Iterator[Endpoint]:
    """A tablet in a process of its own; where it listens."""
    with _child(_be_tablet, make, arguments) as port:
        yield Endpoint("127.0.0.1", port)


@contextmanager
def echo() -> Iterator[int]:
    """A WebSocket that sends back what it is sent, and nothing else; its port."""
    with _child(_be_echo) as port:
        yield port


@contextmanager
def _child(target: Callable[..., None], *arguments: Any) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        if not ours.poll(START_S):
            raise RuntimeError(f"nothing listened within {START_S:g} s")
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def _be_tablet(pipe: Connection, make: Callable[..., Tablet], arguments: tuple[Any, ...]) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    made = make(*arguments)
    door = Door(["127.0.0.1"], 0, Self("tablet", RUN, "tablet", KEY))
    pipe.send(door.endpoints[0].port)
    while True:
        try:
            made.serve(door.take(Deadline(START_S)))
        except PeerError as error:
            print(f"the tablet's connection ended: {error}", file=sys.stderr)


def _be_echo(pipe: Connection) -> None:
    from websockets.sync.server import ServerConnection, serve

    def answer(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    die_with_parent()
    sys.setswitchinterval(SWITCH_S)
    with serve(answer, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        pipe.send(server.socket.getsockname()[1])
        server.serve_forever()


def ranks(rank: int, _: int, __: Any, folder: str, part: tuple[int, int, int], prompt: int, tokens: int) -> Any:
    """Two ranks of a smol group: rank 1 has the stage, rank 0 hands tokens to it. Rank 0's answer: seconds a token."""
    decoder = middle_of(folder, part) if rank else None
    width = 0 if decoder is None else decoder.shape.width
    return {"tokens": partial(_over_the_link, decoder, width, prompt, tokens)}


def _over_the_link(decoder: Decoder | None, width: int, prompt: int, tokens: int) -> float:
    import torch.distributed as dist

    known = torch.tensor([width])
    dist.broadcast(known, 1)
    pieces = [torch.ones(count, int(known)) for count in (prompt, *[1] * tokens)]
    if decoder is not None:
        cache = decoder.new_cache(prompt + tokens)
        for piece in pieces:
            dist.recv(piece, 0)
            dist.send(decoder(piece, [Row(cache, len(piece), True)]), 0)
        return 0.0
    began = 0.0
    for number, piece in enumerate(pieces):
        dist.send(piece, 1)
        dist.recv(piece, 1)
        if number == 0:
            began = time.perf_counter()
    return (time.perf_counter() - began) / tokens
