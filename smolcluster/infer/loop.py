"""The head's thread: lets sessions in, sends steps, takes what comes back, chooses tokens, tells.

It computes the head's layers too, so there is no lock to hold and no state to share; other threads only put things into
its inbox. Every wait has an end: the nearest deadline of a request or a step. While the chain is broken it goes on
keeping deadlines and taking cancels; the keeper, in its own thread, brings the chain up again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import torch

from smolcluster.comm.config import GroupConfig
from smolcluster.errors import PeerError, PeerLostError, SmolError
from smolcluster.infer.control import Lost, Pinged
from smolcluster.infer.keeper import Keeper, Policy
from smolcluster.infer.layout import Layout, Pong
from smolcluster.infer.messages import Cancel, Error, Logits, Open, Step
from smolcluster.infer.pipeline import Incoming, Pipeline
from smolcluster.infer.request import Limits
from smolcluster.infer.schedule import Schedule
from smolcluster.infer.session import Session
from smolcluster.infer.worker import Load

log = logging.getLogger("smolcluster.infer")
# With nothing to wait for, how long until the thread looks around.
_IDLE_S = 1.0
# How long somebody who calls waits for the head's thread: it may be in the middle of a long piece of a prompt.
CALL_S = 30.0
# A request that was under way in so many losses may be what they came of.
_MOST_LOSSES = 5
State = Literal["starting", "ready", "lost", "closed"]
OnLoss = Literal["fail", "continue"]


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


class Loop:
    """The thread, what it knows, and how others reach it. Fields are read from other threads, written by its own."""

    def __init__(
        self, config: GroupConfig, layout: Layout, load: Load, limits: Limits, on_loss: OnLoss, policy: Policy | None
    ) -> None:
        self.limits = limits
        self.on_loss = on_loss
        self.state: State = "starting"
        self.reason = "the stages have not come yet"
        self.hopeless = False
        self.failure: Exception | None = None
        self.tokens = 0
        self.sessions: dict[int, Session] = {}
        self.pongs: dict[int, Pong] = {}
        self.ponged = threading.Condition()
        self.lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Incoming | _Submitted | _Cancelled | _Asked] = queue.SimpleQueue()
        self.pipeline = Pipeline(config, layout, load, self._inbox.put)
        self.schedule = Schedule(limits, self.pipeline.slots)
        self.keeper = Keeper(self.pipeline, self, policy)
        self._steps: dict[int, tuple[list[Session], float]] = {}
        self._next_step = self._next_session = 0
        self._thread = threading.Thread(target=self._run, name="smol-head", daemon=True)

    # From any thread.

    def start(self) -> None:
        """Begin, and the keeper too."""
        self._thread.start()
        self.keeper.start()

    def begin(self, session: Session) -> None:
        """Take a session on. With the lock held."""
        self.sessions[session.key] = session
        self._inbox.put(_Submitted(session))

    def cancel(self, key: int) -> None:
        """End a session."""
        self._inbox.put(_Cancelled(key))

    def unable(self) -> str:
        """Why nothing new can be taken on now; empty when it can."""
        waits = self.state == "lost" and self.on_loss == "continue" and not self.hopeless
        return "" if self.state == "ready" or waits else self.reason

    def close(self) -> None:
        """End every session, the chain and the stages' processes. Idempotent."""
        self.keeper.close()
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError, PeerLostError):
                self._ask(self._shut, CALL_S)
            self._thread.join(CALL_S)
        self._end("the engine was closed")
        self.pipeline.close()

    # For the keeper, from its thread.

    def leave(self, reason: str, only_if_idle: bool) -> bool:
        """Send nothing more. False: it is not idle."""
        return bool(self._ask(lambda: self._leave(reason, only_if_idle)))

    def go(self) -> bool:
        """The chain is there. False: not any more."""
        return bool(self._ask(self._go))

    def say(self, reason: str, hopeless: bool) -> None:
        """Why there is no chain."""
        with self.lock:
            if self.state in ("starting", "lost"):
                self.reason, self.hopeless = reason, hopeless

    def give_up(self, reason: str) -> None:
        """Nobody comes to compute: end every request."""
        with contextlib.suppress(PeerLostError):
            self._ask(lambda: self._fail_all(reason))

    def fail(self, error: Exception) -> None:
        """Something that no other stage can help with: end."""
        log.error("the head cannot go on: %s", error, exc_info=not isinstance(error, SmolError))
        self.failure = error
        with contextlib.suppress(PeerLostError):
            self._ask(lambda: self._end(f"the head cannot go on: {error}"))

    def _ask(self, work: Callable[[], object], within_s: float | None = None) -> object:
        """Have it done in the head's thread, which may take as long as that is in the middle of something."""
        asked = _Asked(work, Future())
        with self.lock:
            if self.state == "closed":
                raise PeerLostError(self.reason)
            self._inbox.put(asked)
        return asked.answer.result(within_s)

    # From here on: the head's thread.

    def _run(self) -> None:
        try:
            while self.state != "closed":
                self._launch()
                self._wait()
        except Exception as error:
            log.exception("the engine failed")
            self.failure = error
            self._end(f"the engine failed: {error}")

    def _launch(self) -> None:
        if self.state != "ready":
            return
        for session in self.schedule.admit():
            session.opened = True
            self.pipeline.send(Open(self.pipeline.epoch, session.number, session.max_len))
        while len(self._steps) < self.schedule.slots and (group := self.schedule.next_group()):
            ids: list[int] = []
            spans = []
            for session in group:
                span, tokens = session.next_span(self.limits.prefill_chunk)
                session.fed += span.length
                spans.append(span)
                ids += tokens
            number, self._next_step = self._next_step, self._next_step + 1
            self._steps[number] = (group, time.monotonic() + self.limits.step_s)
            self.pipeline.send(Step(self.pipeline.epoch, number, tuple(spans), torch.tensor(ids)))

    def _wait(self) -> None:
        """Take what is in the inbox; if nothing is, wait for it until somebody's deadline."""
        now = time.monotonic()
        # Others add sessions meanwhile: their Submitted wakes us.
        due = [session.expires for session in tuple(self.sessions.values())]
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
                if (asked := self.sessions.get(key)) is not None:
                    asked.finish("cancelled")
                    self._release(asked)
            case Cancel(epoch, number):
                if epoch == self.pipeline.epoch:
                    self.schedule.forgotten(number)
            case Error(epoch, number, reason):
                if epoch == self.pipeline.epoch and (refused := self.schedule.active.get(number)) is not None:
                    refused.fail("session", reason)
                    self._release(refused)
            case Lost(epoch, error):
                if epoch == self.pipeline.epoch and self.state == "ready":
                    self._lose(error)
            case Pinged(rank, pong):
                with self.ponged:
                    self.pongs[rank] = pong
                    self.ponged.notify_all()
            case _Asked(work, answer):
                try:
                    answer.set_result(work())
                except Exception as error:  # noqa: BLE001  whoever asked gets it
                    answer.set_exception(error)

    def _begin(self, session: Session) -> None:
        if session.key not in self.sessions:
            return
        if why := self.unable():
            session.fail("stage_lost" if self.state == "lost" else "closed", why)
            self._release(session)
            return
        self._renumber(session)
        self.schedule.waiting.append(session)

    def _renumber(self, session: Session) -> None:
        session.restart(self._next_session)
        self._next_session += 1

    def _answered(self, logits: Logits) -> None:
        if logits.epoch != self.pipeline.epoch or logits.step not in self._steps:
            return
        group, _ = self._steps.pop(logits.step)
        rows = dict(zip(logits.sessions, logits.rows, strict=True))
        for session in group:
            if session.ended:
                continue
            if session.number in rows:
                session.advance(rows[session.number])
                self.tokens += 1
            if session.ended:
                self._release(session)
            else:
                self.schedule.back(session)

    def _release(self, session: Session) -> None:
        """An ended session leaves the line, or the stages."""
        self.sessions.pop(session.key, None)
        if session.opened:
            self.schedule.leave(session)
            self.pipeline.send(Cancel(self.pipeline.epoch, session.number))
        elif session in self.schedule.waiting:
            self.schedule.waiting.remove(session)

    def _expire(self) -> None:
        now = time.monotonic()
        for session in [session for session in tuple(self.sessions.values()) if session.expires <= now]:
            session.fail("deadline", f"it was not done within {session.deadline_s:g} s")
            self._release(session)
        if any(expires <= now for _, expires in self._steps.values()):
            self.pipeline.lose(f"no answer came from the stages within {self.limits.step_s:g} s")

    def _lose(self, error: PeerError) -> None:
        log.error("epoch %d is over: %s", self.pipeline.epoch, error)
        for session in self.schedule.active.values():
            session.losses += 1
        self._drop_chain(str(error))
        self.keeper.lost(str(error))

    def _drop_chain(self, reason: str) -> None:
        """Nobody is active any more; those who were wait in line again, or end."""
        with self.lock:
            self.state, self.reason, self.hopeless = "lost", reason, False
        self._steps.clear()
        self.pipeline.forget()
        lost = self.schedule.clear()
        for session in lost:
            self._renumber(session)
        self.schedule.waiting.extendleft(reversed(lost))
        for session in tuple(self.sessions.values()):
            if self.on_loss == "fail" or session.losses > _MOST_LOSSES:
                session.fail("stage_lost", reason)
                self._release(session)

    def _fail_all(self, reason: str) -> None:
        for session in tuple(self.sessions.values()) if self.state == "lost" else ():
            session.fail("stage_lost", reason)
            self._release(session)

    def _leave(self, reason: str, only_if_idle: bool) -> bool:
        if self.state == "ready":
            if only_if_idle and self.sessions:
                return False
            self._drop_chain(reason)
        return True

    def _go(self) -> bool:
        if not self.pipeline.alive:
            return False
        self.schedule.slots = self.limits.in_flight or self.pipeline.slots
        with self.lock:
            self.state, self.reason, self.hopeless = "ready", "", False
        return True

    def _shut(self) -> None:
        self._end("the engine was closed")

    def _end(self, reason: str) -> None:
        """No more of anything: whoever waits is told."""
        with self.lock:
            if self.state == "closed":
                return
            self.state, self.reason = "closed", reason
        while not self._inbox.empty():
            what = self._inbox.get_nowait()
            if isinstance(what, _Asked):
                what.answer.set_exception(PeerLostError(reason))
        self._steps.clear()
        self.schedule.clear()
        self.schedule.waiting.clear()
        for session in tuple(self.sessions.values()):
            session.fail("closed", reason)
        self.sessions.clear()
