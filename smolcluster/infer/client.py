"""The API's side of its link to the head: a Head over a link, which dials again by itself whenever the link is lost.

One thread dials, then listens. While there is no link nobody waits: requests in flight have ended with "stage_lost",
new ones get a PeerLostError that says why, and health() is `lost`, or `starting` before the first time.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.comm.opening import dial_rank_0, open_mesh
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import BusyError, PeerError, PeerLostError, ProtocolError, SmolError
from smolcluster.infer.group import group_of
from smolcluster.infer.head import About, Health
from smolcluster.infer.request import Delta, Event, Failed, Request, Trouble, Usage
from smolcluster.infer.stream import Stream
from smolcluster.infer.words import (
    GATE,
    MOST_BYTES,
    OF_A_STREAM,
    Accepted,
    Frame,
    Op,
    Refused,
    Text,
    Within,
    error_of,
    frame,
    read,
)
from smolcluster.plan.types import NodeConfig, RankPlan, ServePlan

log = logging.getLogger("smolcluster.infer")
# How long an answer may take that the head has at once, and a word to get out.
_ANSWER_S = 10.0
_HEALTH_S = 5.0
_SEND_S = 5.0
# One attempt at dialling, before the reason is told anew; the pause after one that was refused at once.
_DIAL_S = 15.0
_PAUSE_S = 0.5
_NEVER = "the head has not been reached yet"


@dataclass
class _Open:
    """A request of ours: what its owner has had of it."""

    stream: Stream
    began: float = field(default_factory=time.monotonic)
    written: int = 0
    first_s: float | None = None

    def usage(self) -> Usage:
        """As far as it is known here."""
        return Usage(self.stream.prompt_tokens, self.written, self.first_s, time.monotonic() - self.began)


def open_head(config: NodeConfig, plan: ServePlan, me: RankPlan) -> HeadClient:
    """The head of a served run, for its API's rank. ConfigError where the run's secret cannot be read.

    It is dialled in the background, as often as it has to be.
    """
    return HeadClient(group_of(config, plan, me))


class HeadClient:
    """A Head, reached over a link. Made, it begins to dial; `about` waits for it, the others do not."""

    def __init__(self, config: GroupConfig) -> None:
        self._config = config
        self._mesh = open_mesh(config)
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._link: Link | None = None
        self._about: About | None = None
        self._known = Health(state="starting")
        self._reason = _NEVER
        self._open: dict[int, _Open] = {}
        self._asked: dict[int, Future[Any]] = {}
        self._closing = threading.Event()
        self._pulse = Pulse(self._mesh.pulse, heartbeat_s(config.timeout_s))
        self._thread = threading.Thread(target=self._run, name="smol-client", daemon=True)
        self._thread.start()

    def about(self) -> About:
        """The model. Known once the head has been reached: PeerLostError if that takes longer than some seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._about is not None or self._closing.is_set(), _ANSWER_S):
                raise PeerLostError(self._reason)
            if self._about is None:
                raise PeerLostError("the link to the head is closed")
            return self._about

    def submit(self, request: Request, tell: Callable[[Event], None] | None = None) -> Stream:
        """Begin a request; its events go to `tell`, in the client's thread, or into the stream."""
        key = next(self._numbers)
        stream = Stream(key, self, tell)
        submitted = frame(Op.SUBMIT, key, request)
        try:
            accepted: Accepted = self._ask(submitted, _ANSWER_S, Accepted, _Open(stream))
        except SmolError:
            with self._changed:
                known = self._open.pop(key, None)
            if known is not None:  # no answer came: it may be on its way all the same
                self._say(Frame(Op.CANCEL, key, b""))
            raise
        stream.within_s, stream.prompt_tokens = accepted.within_s, accepted.prompt_tokens
        return stream

    def cancel(self, key: int) -> None:
        """End a request; its stream says so. Nothing happens if it has ended."""
        with self._changed:
            known = key in self._open
        if known:
            self._say(Frame(Op.CANCEL, key, b""))

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        return int(self._ask(frame(Op.COUNT, next(self._numbers), Text(text=text)), _ANSWER_S).tokens)

    def health(self) -> Health:
        """Never raises. Without a link: when it was last heard of, with no stage alive."""
        try:
            health: Health = self._ask(frame(Op.HEALTH, next(self._numbers)), _HEALTH_S, Health)
        except BusyError:  # it is there, and was asked a moment ago
            with self._changed:
                return self._known
        except SmolError as error:
            return self._unreachable(str(error))
        with self._changed:
            self._known = health
        return health

    def reconnect(self, within_s: float) -> None:
        """Connect all stages anew. PeerLostError tells who did not come."""
        asked = frame(Op.RECONNECT, next(self._numbers), Within(seconds=within_s))
        self._ask(asked, within_s + _ANSWER_S)

    def close(self) -> None:
        """Hang up; what is in flight ends with an event. Idempotent."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            link = self._link
        if link is not None:
            link.say_fin()
            link.abort()
        self._thread.join()
        self._pulse.close()
        if self._mesh.listener is not None:
            self._mesh.listener.close()

    def _unreachable(self, reason: str) -> Health:
        with self._changed:
            known, never = self._known, self._about is None
        state: Literal["starting", "lost", "closed"] = "starting" if never else "lost"
        stages = tuple(
            stage.model_copy(
                update={"alive": False, "sessions": 0, "cache_bytes": 0, "steps": 0, "busy_s": 0.0, "rss_mb": 0.0}
            )
            for stage in known.stages
        )
        if self._closing.is_set():
            state = "closed"
        return Health(state=state, reason=reason, epoch=known.epoch, tokens=known.tokens, stages=stages)

    # Asking

    def _ask(self, asked: Frame, within_s: float, wanted: type | None = None, opened: _Open | None = None) -> Any:
        """The answer's word. The error that the head answered, or PeerLostError."""
        answer: Future[Any] = Future()
        with self._changed:
            link = self._link
            if link is None:
                raise PeerLostError(self._reason)
            self._asked[asked.tag] = answer
            if opened is not None:
                self._open[asked.tag] = opened
        try:
            self._send(link, asked)
            word = answer.result(within_s)
        except TimeoutError as error:
            raise PeerLostError(f"the head did not answer within {within_s:g} s") from error
        finally:
            with self._changed:
                self._asked.pop(asked.tag, None)
        if wanted is not None and not isinstance(word, wanted):
            raise ProtocolError(f"{link.who} answered {type(word).__name__} where {wanted.__name__} was due")
        return word

    def _say(self, what: Frame) -> None:
        """Without an answer. If it cannot be said the link is lost, and that is told elsewhere."""
        with self._changed:
            link = self._link
        if link is not None:
            try:
                self._send(link, what)
            except PeerError as error:
                log.info("%s", error)

    def _send(self, link: Link, what: Frame) -> None:
        try:
            link.tell(Kind.MESSAGE, what.payload, _SEND_S, op=what.op, tag=what.tag)
        except PeerError as error:
            link.abort()  # half a frame may have gone
            raise PeerLostError(f"the head was lost: {error}") from error

    # From here on: the client's thread.

    def _run(self) -> None:
        while not self._closing.is_set():
            link: Link | None = None
            try:
                link = dial_rank_0(self._mesh, self._config, GATE, Deadline(_DIAL_S), self._closing)
                self._listen(link)
                reason = "the head has hung up"
            except PeerError as error:
                gone = "was lost" if link is not None else "cannot be reached"
                reason = f"the head {gone}: {error}"
            except Exception as error:
                log.exception("the link to the head failed")
                reason = f"the link to the head failed: {error}"
            self._hung_up(link, "the link to the head is closed" if self._closing.is_set() else reason)
            self._closing.wait(_PAUSE_S)

    def _listen(self, link: Link) -> None:
        timeout_s = self._config.timeout_s
        while True:
            message = link.receive(timeout_s, MOST_BYTES)
            if message.header.kind is Kind.FIN:
                link.say_fin()
                return
            op, tag, word = read(message, link.who)
            if isinstance(word, About):
                log.info("the head was reached: it serves %s", word.name)
                with self._changed:
                    self._about, self._link, self._reason = word, link, ""
                    self._changed.notify_all()
            elif op in OF_A_STREAM:
                self._event(tag, word)
            else:
                self._answer(tag, word)

    def _event(self, tag: int, word: Event | None) -> None:
        with self._changed:
            known = self._open.get(tag)
            if known is not None and not isinstance(word, Delta):
                del self._open[tag]
        if known is None:
            return
        if isinstance(word, Delta):
            known.written += 1
            if known.first_s is None:
                known.first_s = time.monotonic() - known.began
        event = word if word is not None else self._failed(known, "session", "its events were not taken fast enough")
        known.stream.put(event)

    def _answer(self, tag: int, word: Any) -> None:
        with self._changed:
            asked = self._asked.pop(tag, None)
            if isinstance(word, Refused):
                self._open.pop(tag, None)
        if asked is None:
            return
        if isinstance(word, Refused):
            asked.set_exception(error_of(word))
        else:
            asked.set_result(word)

    def _hung_up(self, link: Link | None, reason: str) -> None:
        with self._changed:
            self._link = None
            self._reason = reason
            lost = dict(self._open)
            asked = dict(self._asked)
            self._open.clear()
            self._asked.clear()
        if link is not None:
            log.warning("%s", reason)
            self._mesh.drop(link)
        for one in asked.values():
            one.set_exception(PeerLostError(reason))
        trouble: Trouble = "closed" if self._closing.is_set() else "stage_lost"
        for key, known in lost.items():
            if key not in asked:  # else whoever submits it gets the error
                known.stream.put(self._failed(known, trouble, reason))

    @staticmethod
    def _failed(known: _Open, trouble: Trouble, message: str) -> Event:
        return Failed(trouble, message, known.usage())
