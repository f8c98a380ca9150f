"""A head that says what a test wants: at once by its `script`, or step by step with `say`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from smolcluster.errors import BusyError, SmolError
from smolcluster.infer.head import About, Health, StageNow
from smolcluster.infer.request import Delta, Done, Event, Failed, Request, Usage
from smolcluster.infer.stream import Stream
from smolcluster.spec.modelfile import Decoding

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ABOUT = About(
    name="small",
    source="tests/small",
    licence="MIT",
    layers=4,
    params=1_000_000,
    vocabulary=300,
    context=64,
    max_tokens=16,
    precision="fp32",
    active_strategy="top_p",
    strategies={"greedy": Decoding(), "top_p": Decoding(temperature=0.7, p=0.9), "top_k": Decoding(k=40)},
    chat_template=CHATML,
    special_tokens={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
)
READY = Health(
    state="ready",
    epoch=1,
    tokens=7,
    stages=(
        StageNow(rank=0, node="mini1", start=0, stop=2, alive=True, steps=10, busy_s=0.05, rss_mb=100.0),
        StageNow(rank=1, node="pi5", start=2, stop=4, alive=True, steps=10, busy_s=0.1, rss_mb=200.0),
    ),
)
PROMPT_TOKENS = 5


def usage(written: int) -> Usage:
    return Usage(PROMPT_TOKENS, written, 0.01 if written else None, 0.02)


def written(*pieces: str, reason: str = "length", rest: str = "") -> list[Event]:
    """The events of a good answer."""
    return [*(Delta(number, piece) for number, piece in enumerate(pieces)), Done(reason, rest, usage(len(pieces)))]


class FakeHead:
    """`script` gives a request's events, told from a thread of its own; None waits for `say`."""

    def __init__(self, script: Callable[[Request], Iterable[Event]] | None = None) -> None:
        self.script = script
        self.model, self.now = ABOUT, READY
        self.requests: list[Request] = []
        self.cancelled: list[int] = []
        self.refuse: SmolError | None = None
        self.reconnects: list[float] = []
        self.closed = False
        self.most = 1000
        self._streams: dict[int, Stream] = {}
        self._changed = threading.Condition()

    def about(self) -> About:
        return self.model

    def submit(self, request: Request, tell: Callable[[Event], None]) -> Stream:
        if self.refuse is not None:
            raise self.refuse
        if len(self.requests) >= self.most:
            raise BusyError(f"{self.most} requests wait already")
        with self._changed:
            key = len(self.requests)
            stream = Stream(key, self, tell)
            stream.within_s, stream.prompt_tokens = 30.0, PROMPT_TOKENS
            self.requests.append(request)
            self._streams[key] = stream
            self._changed.notify_all()
        if self.script is not None:
            threading.Thread(target=self._play, args=(key, self.script(request)), daemon=True).start()
        return stream

    def cancel(self, key: int) -> None:
        with self._changed:
            self.cancelled.append(key)
            known = key in self._streams
            self._changed.notify_all()
        if known:
            self.say(key, Done("cancelled", "", usage(0)))

    def count(self, text: str) -> int:
        return len(text)

    def health(self) -> Health:
        return self.now

    def reconnect(self, within_s: float) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.reconnects.append(within_s)

    def close(self) -> None:
        self.closed = True

    # For tests

    def say(self, key: int, *events: Event) -> None:
        for event in events:
            with self._changed:
                stream = self._streams.get(key)
                if isinstance(event, (Done, Failed)):
                    self._streams.pop(key, None)
            if stream is not None:
                stream.put(event)

    def until(self, true: Callable[[], bool], within_s: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(true, within_s), "it did not come to that"

    def asked(self, count: int = 1) -> None:
        """Wait until so many requests came."""
        self.until(lambda: len(self.requests) >= count)

    def _play(self, key: int, events: Iterable[Event]) -> None:
        for event in events:
            self.say(key, event)


def endless() -> Iterable[Event]:
    """Text that does not end by itself."""
    number = 0
    while number < 100_000:
        yield Delta(number, "word ")
        number += 1
        time.sleep(0.001)
