"""A worker of a star: a step on leased samples, its mean gradient pushed, weights pulled every so many steps.

A push is answered while the next step is computed: a second lease is there already. Before the next gradient is sealed
the answer has to be there, so at most one push is open, and its bytes can be sent again as they are. When the link is
lost the worker dials until it finds the server again, takes its weights, and sends the open push once more; the server
knows whether it had it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from smolcluster.comm.caller import MOST_PAUSE_S
from smolcluster.comm.clock import Deadline
from smolcluster.comm.codec import codec_of
from smolcluster.comm.endpoint import REDIAL_S
from smolcluster.comm.feedback import ErrorFeedback
from smolcluster.comm.letter import Letter, Value
from smolcluster.errors import DeadlineError, PeerLostError, ProtocolError, RunOverError
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, LossSum, Verdict
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.star.leases import Lease
from smolcluster.strategies.star.messages import APPLIED, Op, leases_in, op_of
from smolcluster.strategies.star.weights import Incoming

log = logging.getLogger(__name__)

_LOOK_S = 0.25


class ServerLink(Protocol):
    """What a worker needs of a Caller, or of an Inside: see there."""

    @property
    def generation(self) -> int:
        """The server's when it was reached last."""
        ...

    @property
    def timeout_s(self) -> float:
        """How long a server that lives may say nothing."""
        ...

    def dial(
        self, deadline: Deadline, stop: Callable[[], bool], words: Mapping[str, Value] | None = None
    ) -> Mapping[str, Value]:
        """Join, the first time or again. DeadlineError, PeerLostError."""
        ...

    def send(self, letter: Letter) -> None:
        """Have it sent. Never waits."""
        ...

    def receive(self, timeout_s: float) -> Letter | None:
        """The next letter, None if none comes within that time. PeerLostError."""
        ...


@dataclass(frozen=True)
class WorkerStep:
    """One step of a worker. `lr` is the server's, undamped; `staleness` what it said of the last answered push;
    `comm_s`: seconds that were waited for the server.
    """

    loss: LossSum
    grad_norm: float
    lr: float
    compute_s: float
    comm_s: float
    staleness: int
    loss_scale: float | None


@dataclass(frozen=True)
class Ending:
    """How the run ended, as the server said it: completed, stopped, failed."""

    status: str
    reason: str


class StarWorker(Replica):
    """`context` is solo's. `stop` answers whether this rank is to end; `entered` is called with each generation of the
    server. `join_s`: how long the server may be away.
    """

    # Whether it goes on between pulls with an optimizer of its own, and so has one.
    optimizes = True

    def __init__(
        self,
        context: RunContext,
        model: nn.Module,
        caller: ServerLink,
        stop: Callable[[], bool],
        entered: Callable[[int], None],
        join_s: float,
    ) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients([(0, self.flat.length)] if self.optimizes else [], send=None)
        self.ending: Ending | None = None
        self.left = 0
        self.outcomes: Counter[str] = Counter()
        self.incoming = Incoming(self.flat.params, tuple(self.untrained().values()), context.plan.wire)
        self.run = context.run
        self._caller = caller
        self._stop = stop
        self._entered = entered
        self._join_s = join_s
        self._samples = context.me.samples
        length, device = self.flat.length, self.flat.params.device
        self._codec = codec_of(context.plan.wire)
        self._frame = torch.empty(self._codec.frame_bytes(length), dtype=torch.uint8, device=device)
        self.feedback: ErrorFeedback | None = None
        if context.plan.wire != "fp32":
            self.feedback = ErrorFeedback(self._codec, torch.zeros_like(self.flat.params), self._frame)
        self._leases: deque[Lease] = deque()
        self._open: Letter | None = None
        self._number = 0
        self._since = 0
        self._version = 0
        self._lr = 0.0
        self._staleness = 0
        self._generation: int | None = None
        # Grows with each joining: what was leased before it is void.
        self._joined = 0
        # Whether the server has answered the last joining.
        self._welcome = False
        self._waited_s = 0.0
        # Before the next dialling.
        self._pause_s = 0.0

    # -- for the strategy -----------------------------------------------------------------------------------------

    def between(self, lr: float, clip: float) -> None:
        """A gradient was pushed and no weights are due: `whole_grads` is the mean gradient, and scratch afterwards."""
        raise NotImplementedError

    def pulled(self) -> None:
        """`incoming.base` is what the server has. Who has just joined has taken it already."""
        raise NotImplementedError

    # -- for who drives it ----------------------------------------------------------------------------------------

    def join(self) -> None:
        """Find the server, the first time or again, and take its weights. RunOverError if it does not come in time."""
        deadline = Deadline(self._join_s)
        while True:
            try:
                self._caller.dial(deadline, self._stop, {"samples": self._samples})
                self._take_up(self._caller.generation)
                self._await(lambda: self._welcome or self.ending is not None, deadline)
                return
            except DeadlineError as error:
                raise RunOverError(f"the server is gone, and nothing is trained without it: {error}") from error
            except PeerLostError as error:
                if self._stop():
                    raise
                if deadline.expired:
                    raise RunOverError(f"the server lets nobody join within {deadline.seconds:g} s: {error}") from error
                log.info("the server was lost while it was joined; dialling again")
                self._back_off()

    def lease(self) -> Lease | None:
        """The next samples; waits for some. None: the run is over, or this rank is to stop."""
        began = time.perf_counter()
        self._settle_while(lambda: not self._leases and self.ending is None and not self._stop())
        self._waited_s += time.perf_counter() - began
        if self.ending is not None or self._stop() or not self._leases:
            return None
        return self._leases.popleft()

    def train_step(self, batch: Batch, lease: Lease) -> WorkerStep | None:
        """Compute and push. None: the server was lost meanwhile, and what was computed is for nobody."""
        began, waited_before_s = time.perf_counter(), self._waited_s
        base, joined = self._version, self._joined
        local, verdict = self._differentiate(batch)
        # The verdict's factor makes the mean of the sum, and clips; what is pushed is the mean itself.
        unscaled = 1.0 / (local.tokens * self.loss_scale.factor)
        self.whole_grads.mul_(unscaled)
        used = self.loss_scale.value if self.loss_scale.used else None
        self.loss_scale.take(skipped=False)
        self._settle()
        if self.ending is not None or self._joined != joined:
            return None
        pull = self._since + 1 >= self.run.worker_update_interval
        self._push(lease, base, local, pull)
        lr = self._lr
        if pull:
            self._settle()
        else:
            self.between(lr, verdict.scale / unscaled)
        comm_s = self._waited_s - waited_before_s
        compute_s = time.perf_counter() - began - comm_s
        return WorkerStep(local, verdict.grad_norm, lr, compute_s, comm_s, self._staleness, used)

    def give_up(self, reason: str) -> None:
        """The numbers went wrong here: tell the server, which ends the run."""
        self._caller.send(Letter(Op.FAILED, 0, {"reason": reason[:500]}))

    def leave(self) -> None:
        """Wait for what is open, if the server is there, and say goodbye."""
        deadline = Deadline(self._caller.timeout_s)
        try:
            self._await(lambda: self._open is None or self.ending is not None, deadline)
        except (PeerLostError, DeadlineError) as error:
            log.info("left without an answer: %s", error)

    # -- a step's parts -------------------------------------------------------------------------------------------

    def _differentiate(self, batch: Batch) -> tuple[LossSum, Verdict]:
        """Gradients of the batch; under float16 again with a smaller scale until they are finite."""
        while True:
            local = self.backward(batch)
            verdict = self.agree(local, False, [self.whole_grads])
            if not verdict.skip:
                return local, verdict
            self.loss_scale.take(skipped=True)

    def _push(self, lease: Lease, base: int, local: LossSum, pull: bool) -> None:
        if self.feedback is not None:
            self.feedback.seal(self.whole_grads)
        else:
            self._codec.encode(self.whole_grads, self._frame)
        self._number += 1
        assert self._generation is not None, "join first"
        words: dict[str, Value] = {
            "lease": lease.number,
            "base": base,
            "generation": self._generation,
            "tokens": local.tokens,
            "loss": local.loss,
            "pull": pull,
        }
        self._open = Letter(Op.PUSH, self._number, words, self._frame.cpu())
        self._caller.send(self._open)
        self._since += 1

    def _settle(self) -> None:
        """Wait until the open push is answered, through losses of the server."""
        began = time.perf_counter()
        self._settle_while(lambda: self._open is not None and self.ending is None)
        self._waited_s += time.perf_counter() - began

    def _settle_while(self, unsettled: Callable[[], bool]) -> None:
        while unsettled():
            try:
                self._hear(_LOOK_S)
            except PeerLostError as error:
                if self.ending is not None:
                    return
                log.warning("the link to the server is lost: %s", error)
                self._back_off()
                self.join()
                if self._open is not None and self.ending is None:
                    self._caller.send(self._open)

    def _back_off(self) -> None:
        """Before the server is dialled again: no pause at first, longer ones the oftener it answered no push since."""
        threading.Event().wait(self._pause_s)
        self._pause_s = min(MOST_PAUSE_S, max(REDIAL_S, 2 * self._pause_s))

    # -- letters --------------------------------------------------------------------------------------------------

    def _await(self, done: Callable[[], bool], deadline: Deadline) -> None:
        while not done():
            if self._stop() and self._open is None:
                raise PeerLostError("the server was not waited for: this rank is to stop")
            if deadline.expired:
                raise DeadlineError(f"the server did not answer within {deadline.seconds:g} s")
            self._hear(min(_LOOK_S, deadline.left()))

    def _hear(self, wait_s: float) -> None:
        letter = self._caller.receive(wait_s)
        if letter is None:
            return
        match op_of(letter):
            case Op.ANSWER:
                self._take_answer(letter)
            case Op.LEASES:
                self._take_leases(letter)
            case Op.DONE:
                self.ending = Ending(letter.say("status", str), letter.say("reason", str))
            case Op.REFUSED:
                raise RunOverError(
                    f"the server let this worker go: {letter.say('reason', str)}. "
                    "Fix: install the same version of smolcluster on every machine."
                )
            case other:
                raise ProtocolError(f"the server sent {other.name}, which is for a worker to send")

    def _take_answer(self, letter: Letter) -> None:
        if letter.number == 0:
            self._welcome = True
        elif self._open is not None and letter.number == self._open.number:
            lease, self._open = self._open.say("lease", int), None
            self._pause_s = 0.0
            # Leased once more to who joined again, though the server had the gradient or was about to get it.
            self._leases = deque(one for one in self._leases if one.number != lease)
            outcome = letter.say("outcome", str)
            self.outcomes[outcome] += 1
            self._staleness = letter.say("staleness", int)
            if outcome != APPLIED:
                log.info("gradient %d was not applied: %s", letter.number, outcome)
        self._take_leases(letter)
        self._lr, self.left = letter.say("lr", float), letter.say("left", int)
        if self.incoming.take(letter):
            self._version = letter.say("version", int)
            self._since = 0
            if letter.number and not letter.say("jump", bool):
                self.pulled()
            else:
                self.flat.params.copy_(self.incoming.base)

    def _take_leases(self, letter: Letter) -> None:
        """What had expired may be leased once more to who still has it."""
        held = {lease.number for lease in self._leases}
        self._leases.extend(lease for lease in leases_in(letter) if lease.number not in held)

    def _take_up(self, generation: int) -> None:
        """The server was reached: what was leased before is void, its weights come."""
        self._joined += 1
        self._welcome = False
        self._leases.clear()
        if generation != self._generation:
            self._entered(generation)
            if self.feedback is not None:  # the frame of an open push stays as it is
                self.feedback.forget()
        self._generation = generation
