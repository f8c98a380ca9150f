"""The engine: takes requests from any thread and answers each with a stream of events.

One thread, the head's, does everything in turn: let sessions in, send steps while some may be under way, wait for what
comes back, choose tokens, tell. It computes the head's layers too, so there is no lock to hold and no state to share;
other threads only put things into its inbox. Every wait has an end: the nearest deadline of a request or a step.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import psutil
import torch
from tokenizers import Tokenizer

from smolcluster.comm.config import GroupConfig
from smolcluster.errors import BusyError, PeerError, PeerLostError, RequestError
from smolcluster.infer.control import Lost, Pinged
from smolcluster.infer.head import Health, StageNow
from smolcluster.infer.layout import Layout, Pong
from smolcluster.infer.messages import Cancel, Error, Logits, Open, Reset, Step
from smolcluster.infer.pipeline import Incoming, Pipeline
from smolcluster.infer.request import Event, Limits, Request, prompt_ids
from smolcluster.infer.schedule import Schedule
from smolcluster.infer.session import Session
from smolcluster.infer.stage import StageState
from smolcluster.infer.stream import Stream
from smolcluster.infer.worker import Load

log = logging.getLogger("smolcluster.infer")
# With nothing to wait for, how long until the thread looks around.
_IDLE_S = 1.0
# How long somebody who calls waits for the head's thread: it may be in the middle of a long piece of a prompt.
_CALL_S = 30.0
# How long a stage may take to say how it is.
_PONG_S = 1.0
State = Literal["starting", "ready", "lost", "closed"]


@dataclass(frozen=True)
class Status:
    """What the engine says of itself. `reason`: why it is not ready."""

    state: State
    reason: str
    epoch: int
    active: int
    leaving: int
    waiting: int
    tokens: int


@dataclass(frozen=True)
class _Submitted:
    session: Session


@dataclass(frozen=True)
class _Cancelled:
    key: int


@dataclass(frozen=True)
class _Asked:
    """Something to be done in the head's thread."""

    work: Callable[[], object]
    answer: Future[object]


class Engine:
    """Made, it listens for its stages; `start` brings them together. Use as a context manager, or `close` it."""

    def __init__(
        self,
        config: GroupConfig,
        layout: Layout,
        load: Load,
        context: int,
        tokenizer: Tokenizer | None = None,
        ends: frozenset[int] = frozenset(),
        limits: Limits | None = None,
        seed: int = 0,
        max_tokens: int = 256,
        on_loss: Literal["fail", "continue"] = "fail",
    ) -> None:
        """`context` is the most tokens a session may see; `ends` the tokens that end a text.

        `on_loss`: when a stage is lost, requests in flight fail, or wait for `reconnect` and go on where they were.
        """
        self.context = context
        self.limits = limits or Limits()
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._ends = ends
        self._seed = seed
        self._on_loss = on_loss
        self._inbox: queue.SimpleQueue[Incoming | _Submitted | _Cancelled | _Asked] = queue.SimpleQueue()
        self._pipeline = Pipeline(config, layout, load, self._inbox.put)
        self._schedule = Schedule(self.limits, self._pipeline.slots)
        self._steps: dict[int, tuple[list[Session], float]] = {}
        self._sessions: dict[int, Session] = {}
        self._next_step = self._next_session = self._next_key = 0
        self._tokens = 0
        self._state: State = "starting"
        self._reason = "the stages have not come yet"
        self._pongs: dict[int, Pong] = {}
        self._ponged = threading.Condition()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="smol-head", daemon=True)
        self._vocabulary = 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, within_s: float) -> None:
        """Wait for every stage. PeerError tells who did not come, and nothing is left behind."""
        try:
            self._pipeline.open(within_s)
        except BaseException:
            self._pipeline.close()
            self._state = "closed"
            raise
        self._vocabulary = self._pipeline.stage.decoder.shape.vocab_size
        self._state, self._reason = "ready", ""
        self._thread.start()

    def submit(self, request: Request, tell: Callable[[Event], None] | None = None) -> Stream:
        """Begin a request. Its events come from the stream, or to `tell`, called in the engine's thread, if given.

        RequestError: it cannot be served as it is. BusyError: too many wait already. PeerLostError: no chain now.
        """
        prompt = prompt_ids(request, self._tokenizer, self._vocabulary, self.context)
        max_tokens = min(request.max_tokens or self.max_tokens, self.context - len(prompt) + 1)
        if not self._schedule.fits(len(prompt) + max_tokens - 1):
            raise RequestError(
                f"it needs room for {len(prompt) + max_tokens} tokens, the caches have {self.limits.tokens}"
            )
        with self._lock:
            if self._state == "closed" or (self._state == "lost" and self._on_loss == "fail"):
                raise PeerLostError(f"the model cannot be served now: {self._reason}")
            if len(self._sessions) >= self.limits.sessions + self.limits.queue:
                raise BusyError(f"{self.limits.queue} requests wait already; try again later")
            key, self._next_key = self._next_key, self._next_key + 1
            stream = Stream(key, self, tell)
            session = Session(
                key,
                request,
                prompt,
                max_tokens,
                self._seed if request.seed is None else request.seed,
                self.limits.request_s if request.deadline_s is None else request.deadline_s,
                self._ends,
                self._tokenizer,
                stream.put,
            )
            self._sessions[key] = session
        stream.within_s, stream.prompt_tokens = session.deadline_s, len(prompt)
        self._inbox.put(_Submitted(session))
        return stream

    def cancel(self, key: int) -> None:
        """End a request; its stream says so. Nothing happens if it has ended."""
        self._inbox.put(_Cancelled(key))

    def status(self) -> Status:
        """Now, from any thread."""
        schedule = self._schedule
        return Status(
            self._state,
            self._reason,
            self._pipeline.epoch,
            len(schedule.active),
            len(schedule.leaving),
            len(self._sessions) - len(schedule.active),
            self._tokens,
        )

    def stages(self, within_s: float = 5.0) -> dict[int, Pong]:
        """What each later stage says of itself, asked now; those that do not answer in time are missing."""
        ranks = {place.rank for place in self._pipeline.layout.places[1:]}
        with self._ponged:
            self._pongs.clear()
            self._pipeline.ping()
            self._ponged.wait_for(lambda: ranks <= self._pongs.keys(), within_s)
            return dict(self._pongs)

    def count(self, text: str) -> int:
        """How many tokens a text is. RequestError where the model has no tokenizer."""
        if self._tokenizer is None:
            raise RequestError("this model has no tokenizer: there are no tokens to count")
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def health(self, nodes: Mapping[int, str] | None = None) -> Health:
        """The truth of now. `nodes` names the machine of each rank. Takes a second if a stage does not answer."""
        status = self.status()
        return Health(
            state=status.state,
            reason=status.reason,
            epoch=status.epoch,
            active=status.active,
            waiting=status.waiting,
            tokens=status.tokens,
            stages=self._stages_now(nodes or {}),
        )

    def _stages_now(self, nodes: Mapping[int, str]) -> tuple[StageNow, ...]:
        first, *later = self._pipeline.layout.places
        pongs = self.stages(_PONG_S) if later else {}
        known = {0: self._own_pong(), **pongs}
        return tuple(
            StageNow(
                rank=place.rank,
                node=nodes.get(place.rank, ""),
                start=place.start,
                stop=place.stop,
                alive=place.rank in known,
                **(known[place.rank].model_dump() if place.rank in known else {}),
            )
            for place in (first, *later)
        )

    def _own_pong(self) -> Pong:
        state = self._pipeline.own_state()
        return Pong(**vars(state), rss_mb=psutil.Process().memory_info().rss / 1e6)

    def head_state(self) -> StageState:
        """The same of the head's own stage."""
        return self._pipeline.own_state()

    def reconnect(self, within_s: float) -> None:
        """Begin a new epoch with all stages: those that are there, and those that were lost once they come again.

        Requests in flight go on, or fail, as `on_loss` says. PeerError tells who did not come.
        """
        self._ask(lambda: self._reconnect(within_s), within_s + _CALL_S)

    def close(self) -> None:
        """End every request, the chain and the stages' processes. Idempotent."""
        if self._state == "closed":
            return
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                self._ask(self._shut, _CALL_S)
            self._thread.join(_CALL_S)
        self._state = "closed"
        self._pipeline.close()

    def _ask(self, work: Callable[[], object], within_s: float) -> None:
        asked = _Asked(work, Future())
        self._inbox.put(asked)
        asked.answer.result(within_s)

    # From here on: the head's thread.

    def _run(self) -> None:
        try:
            while self._state != "closed":
                self._launch()
                self._wait()
        except Exception as error:
            log.exception("the engine failed")
            self._reason = f"the engine failed: {error}"
            self._shut()

    def _launch(self) -> None:
        if self._state != "ready":
            return
        for session in self._schedule.admit():
            session.opened = True
            self._pipeline.send(Open(self._pipeline.epoch, session.number, session.max_len))
        while len(self._steps) < self._schedule.slots and (group := self._schedule.next_group()):
            ids: list[int] = []
            spans = []
            for session in group:
                span, tokens = session.next_span(self.limits.prefill_chunk)
                session.fed += span.length
                spans.append(span)
                ids += tokens
            number, self._next_step = self._next_step, self._next_step + 1
            self._steps[number] = (group, time.monotonic() + self.limits.step_s)
            self._pipeline.send(Step(self._pipeline.epoch, number, tuple(spans), torch.tensor(ids)))

    def _wait(self) -> None:
        """Take what is in the inbox; if nothing is, wait for it until somebody's deadline."""
        now = time.monotonic()
        due = [session.expires for session in self._sessions.values()]
        due += [expires for _, expires in self._steps.values()]
        with contextlib.suppress(queue.Empty):
            self._take(self._inbox.get(timeout=max(0.0, min([now + _IDLE_S, *due]) - now)))
            while True:
                self._take(self._inbox.get_nowait())
        self._expire()

    def _take(self, what: Incoming | _Submitted | _Cancelled | _Asked) -> None:
        match what:
            case Logits():
                self._answered(what)
            case _Submitted(session):
                self._begin(session)
            case _Cancelled(key):
                if (asked := self._sessions.get(key)) is not None:
                    asked.finish("cancelled")
                    self._release(asked)
            case Cancel(epoch, number):
                if epoch == self._pipeline.epoch:
                    self._schedule.forgotten(number)
            case Error(epoch, number, reason):
                if epoch == self._pipeline.epoch and (refused := self._schedule.active.get(number)) is not None:
                    refused.fail("session", reason)
                    self._release(refused)
            case Lost(epoch, error):
                if epoch == self._pipeline.epoch:
                    self._lose(error)
            case Pinged(rank, pong):
                with self._ponged:
                    self._pongs[rank] = pong
                    self._ponged.notify_all()
            case _Asked(work, answer):
                try:
                    answer.set_result(work())
                except Exception as error:  # noqa: BLE001  whoever asked gets it
                    answer.set_exception(error)

    def _begin(self, session: Session) -> None:
        if self._state == "closed" or (self._state == "lost" and self._on_loss == "fail"):
            session.fail("stage_lost" if self._state == "lost" else "closed", self._reason)
            self._release(session)
            return
        self._renumber(session)
        self._schedule.waiting.append(session)

    def _renumber(self, session: Session) -> None:
        session.restart(self._next_session)
        self._next_session += 1

    def _answered(self, logits: Logits) -> None:
        if logits.epoch != self._pipeline.epoch or logits.step not in self._steps:
            return
        group, _ = self._steps.pop(logits.step)
        rows = dict(zip(logits.sessions, logits.rows, strict=True))
        for session in group:
            if session.ended:
                continue
            if session.number in rows:
                session.advance(rows[session.number])
                self._tokens += 1
            if session.ended:
                self._release(session)
            else:
                self._schedule.back(session)

    def _release(self, session: Session) -> None:
        """An ended session leaves the line, or the stages."""
        self._sessions.pop(session.key, None)
        if session.opened:
            self._schedule.leave(session)
            self._pipeline.send(Cancel(self._pipeline.epoch, session.number))
        elif session in self._schedule.waiting:
            self._schedule.waiting.remove(session)

    def _expire(self) -> None:
        now = time.monotonic()
        for session in [session for session in self._sessions.values() if session.expires <= now]:
            session.fail("deadline", f"it was not done within {session.deadline_s:g} s")
            self._release(session)
        if any(expires <= now for _, expires in self._steps.values()):
            self._pipeline.lose(f"no answer came from the stages within {self.limits.step_s:g} s")

    def _lose(self, error: PeerError) -> None:
        self._state, self._reason = "lost", str(error)
        log.error("epoch %d is over: %s", self._pipeline.epoch, error)
        self._steps.clear()
        lost = self._schedule.clear()
        if self._on_loss == "continue":
            for session in lost:
                self._renumber(session)
            self._schedule.waiting.extendleft(reversed(lost))
            return
        for session in list(self._sessions.values()):
            session.opened = False
            session.fail("stage_lost", str(error))
            self._release(session)

    def _reconnect(self, within_s: float) -> None:
        if self._state == "closed":
            raise PeerLostError(f"the engine is closed: {self._reason}")
        if self._state == "ready":
            self._lose(PeerLostError("the stages are being connected anew"))
        self._pipeline.open(within_s)
        self._state, self._reason = "ready", ""

    def _shut(self) -> None:
        with self._lock:
            self._state = "closed"
            self._reason = self._reason or "the engine was closed"
        self._pipeline.send(Reset(self._pipeline.epoch))
        while not self._inbox.empty():
            what = self._inbox.get_nowait()
            if isinstance(what, _Asked):
                what.answer.set_exception(PeerLostError(self._reason))
        self._steps.clear()
        self._schedule.clear()
        for session in list(self._sessions.values()):
            session.opened = False
            session.fail("closed", self._reason)
        self._sessions.clear()
