"""A gate and its client over a real link, before a head that a test plays itself."""

import queue
import threading
from contextlib import contextmanager

from smolcluster.comm.announce import announce
from smolcluster.comm.opening import open_mesh
from smolcluster.comm.pulse import Pulse
from smolcluster.infer.client import HeadClient
from smolcluster.infer.gate import Gate
from smolcluster.infer.head import About, Health, StageNow
from smolcluster.infer.request import Request, Usage
from smolcluster.infer.stream import Stream
from tests.infer.infer_models import CONTEXT, LAYERS, VOCABULARY
from tests.infer.stage_pool import settings

WAIT_S = 60.0
ABOUT = About(
    name="small", source="a test", licence="none", layers=LAYERS, params=1000, vocabulary=VOCABULARY, context=CONTEXT,
    max_tokens=16, precision="fp32", active_strategy="greedy", strategies={},
)  # fmt: skip
STAGE = StageNow(rank=0, node="a", start=0, stop=4, alive=True, sessions=2, steps=7)
USAGE = Usage(3, 2, 0.25, 1.5)


class Script:
    """A head whose events the test tells itself."""

    def __init__(self):
        self.told: dict[int, object] = {}
        self.cancelled: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.submitted: queue.SimpleQueue[tuple[int, Request]] = queue.SimpleQueue()
        self.refusing: Exception | None = None
        self.reconnected: list[float] = []

    def about(self):
        return ABOUT

    def submit(self, request, tell):
        if self.refusing is not None:
            raise self.refusing
        key = len(self.told)
        self.told[key] = tell
        stream = Stream(key, self, tell)
        stream.within_s, stream.prompt_tokens = 30.0, len(request.prompt)
        self.submitted.put((key, request))
        return stream

    def cancel(self, key):
        self.cancelled.put(key)

    def count(self, text):
        if self.refusing is not None:
            raise self.refusing
        return len(text.split())

    def health(self):
        return Health(state="ready", epoch=3, active=1, stages=(STAGE,))

    def reconnect(self, within_s):
        self.reconnected.append(within_s)
        if self.refusing is not None:
            raise self.refusing

    def close(self):
        pass


@contextmanager
def gated(folder, head, most_waiting=4096, comm=None):
    """A gate on a mesh of its own, announced in the folder."""
    mesh = open_mesh(settings(0, 2, str(folder), **(comm or {})))
    announce(folder / "endpoint.json", mesh.listener.endpoint, "serving", 0)
    pulse = Pulse(mesh.pulse, 0.5)
    gate = Gate(head, mesh, 1, most_waiting)
    try:
        yield gate
    finally:
        gate.close()
        pulse.close()
        mesh.listener.close()


def client_of(folder, **comm) -> HeadClient:
    return HeadClient(settings(1, 2, str(folder), listen=(), **comm))


@contextmanager
def pair(folder, head, most_waiting=4096):
    with gated(folder, head, most_waiting):
        client = client_of(folder)
        try:
            assert client.about() == ABOUT
            yield client
        finally:
            client.close()


def wait_for(client, state):
    """Each look is an answer of the head's, or one that there is none: bounded by its number."""
    pause = threading.Event()
    for _ in range(600):
        if client.health().state == state:
            return client.health()
        pause.wait(0.1)
    raise AssertionError(f"never {state}: {client.health()}")


def end_of(stream):
    *_, end = stream
    return end
