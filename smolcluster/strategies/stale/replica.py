"""Stale-synchronous training (Ho et al., NIPS 2013): ranks may be K steps apart, and wait for nobody within that.

Every rank owns a flat, even shard of the parameters and of the optimizer (owner.py), and computes with a replica of
all. After a step it sends each owner its gradient of that shard, clipped by the norm of its own whole gradient, and
goes on with the newest shards that have come, if each of them has the gradients of all ranks up to K steps ago; else it
waits. So a late rank or a slow wire holds nobody up until it is K steps behind. 2(N-1)/N x P bytes per rank and step,
as a ring; frames under way may take (K + 1) times P more memory.

At a fence all ranks rest after the same step, owners bring the rest of their boxes into the weights, and all shards are
gathered in float32: replicas are equal to the bit there, and nothing is under way. That is where losses are measured,
checkpoints saved, and runs end.

A wish to stop is known to all K + 1 steps later. A loss is that of the last step that all ranks have told of.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import Slice
from smolcluster.strategies.base import Batch, LossSum, NotFiniteError, StepResult, Tally, Verdict, judge
from smolcluster.strategies.flat import Layout
from smolcluster.strategies.pieces import Piece
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.squares import sum_of_squares
from smolcluster.strategies.stale.messages import Message, Weights
from smolcluster.strategies.stale.owner import Add, Owner, Push
from smolcluster.strategies.stale.post import Post
from smolcluster.strategies.stale.travel import Gradients, Parameters
from smolcluster.strategies.stream import GradientStream
from smolcluster.strategies.sums import Sums
from smolcluster.strategies.synchronous import tokens_of_a_step


class StaleSynchronous(Replica):
    """A replica, its shard's owner, and the ways between. classicdp and stages 0 to 2 of fsdp are the same here."""

    sums_gradients = False

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.bound = context.run.staleness_bound
        self._generation = context.generation
        self._batch_tokens = tokens_of_a_step(context)
        self.owns_apart = False
        self.whole_grads = torch.zeros_like(self.flat.params)
        self.stream = GradientStream(self.flat, lambda b: self.flat.bucket(self.whole_grads, b), lambda _: None)
        self.collectives.broadcast(self.flat.params)
        shards = self.shards = self._gradients.shards
        self.shard = shards.read(self.flat.params, self.rank).clone()
        box = torch.zeros_like(self.shard)
        whole = Piece(0, self.flat.length, self.flat.params)
        self.hold(self.flat, [whole], shards.pieces(self.shard, self.rank), shards.pieces(box, self.rank))
        self.take_rank_0s_untrained()
        self.owner = Owner(box, self._update, context.world_size, self.bound, self._batch_tokens, context.generation)
        self._parameters = Parameters(self._wire, self.rank, context.world_size)
        self._parameters.start(self.shard)
        self._post = Post(self.collectives, self.bound, self._gradients.frame_bytes, self._take, self._fail)
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        # By owner: frames that came and are not in the replica yet, and the slowest clock in the newest of them.
        self._came: list[list[torch.Tensor]] = [[] for _ in range(context.world_size)]
        self._clocks = [0] * context.world_size
        self._taken = self._fenced = 0
        # What AdamW had counted before this rank's first step here.
        self._counted_before = 0

    def sums_over(self, layout: Layout) -> Sums:
        """How gradients travel: to owners, who do the summing."""
        self._gradients = Gradients(self._wire, layout, self.collectives, self._tokens)
        return self._gradients

    # -- a step ---------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this rank's share of a step with weights that are fresh enough."""
        self.begin()
        self._post.open()
        step = self._taken + 1
        lags = self._freshen(step)
        local = self.accumulate(batch)
        verdict = self._judge_own(local, stop)
        self._push(step, local, verdict, lr)
        self._taken = step
        if self.last_loss is None:  # a run's first step: everybody's loss, so that its curve begins where it should
            self._await(lambda: self.owner.known.step >= step, step)
        return self._account(step, verdict, lags)

    def _freshen(self, step: int) -> tuple[int, ...]:
        """Bring the newest shards into the replica; how many steps each of them is behind, by owner."""
        least = step - 1 - self.bound
        self._await(lambda: min(self._clocks) >= least, least)
        with self._changed:
            came, self._came = self._came, [[] for _ in self._came]
            self._clocks[self.rank] = self.owner.clock  # its own shard is read as it is now
            clocks = tuple(self._clocks)
            self.shards.write(self.shard, self.flat.params, self.rank)
        for owner, frames in enumerate(came):
            if frames:
                had = self.shards.read(self.flat.params, owner)
                self.shards.write(self._parameters.take(frames, had), self.flat.params, owner)
        return tuple(step - 1 - clock for clock in clocks)

    def _judge_own(self, local: LossSum, stop: bool) -> Verdict:
        """What becomes of this rank's own gradient: clipped by its own norm, since another would be everybody's."""
        if not local.tokens:
            self.squares([])
            return Verdict(0.0, 0, 0.0, 0.0, stop)
        tally = Tally(local.loss, local.tokens, stop, self.squares([self.whole_grads]))
        nothing = Tally(0.0, 0, stop=False, squares=0.0).row()
        scale = self.loss_scale
        # As if the others had no samples: what is not finite is told with this rank's number.
        return judge([*[nothing] * self.rank, tally.row()], self.max_norm, scale.factor, scale.skippable)

    def squares(self, gradients: Iterable[torch.Tensor]) -> float:
        """The sum of squares of this rank's own gradient, and what ask_layer_norms wants."""
        whole = Piece(0, self.flat.length, self.whole_grads)
        self._layer_norms.measure(self.flat, [whole], [(0, self.flat.length)])
        return math.fsum(sum_of_squares(gradient) for gradient in gradients)

    def _push(self, step: int, local: LossSum, verdict: Verdict, lr: float) -> None:
        """Send every owner its part of the gradient, which is also to ask for its shard."""
        tokens = 0 if verdict.skip else verdict.tokens
        finite = math.isfinite(local.loss)
        push = Push(
            self._generation, self.rank, step, tokens, lr, local.loss if finite else 0.0,
            local.tokens if finite else 0, verdict.stop,
        )  # fmt: skip
        if tokens:
            # The mean, clipped, times its tokens: owners add up sums.
            self.whole_grads.mul_(verdict.scale * tokens)
        for owner in range(self.collectives.world_size):
            if owner != self.rank:
                self._post.send(owner, push, self._gradients.seal(self.whole_grads, owner) if tokens else None)
        mine = self.shards.read(self.whole_grads, self.rank)
        with self._changed:
            self._push_here(push, (lambda box: box.add_(mine)) if tokens else None)

    def _account(self, step: int, verdict: Verdict, lags: tuple[int, ...]) -> StepResult:
        norms = None
        if verdict.tokens:
            norms = self._layer_norms.agree(verdict.tokens * self.loss_scale.factor, lambda values: [values])
        comm_s = self.collectives.blocked_s - self._blocked_before_s
        compute_s = time.perf_counter() - self._began - comm_s
        used = self.loss_scale.value if self.loss_scale.used else None
        self.loss_scale.take(verdict.skip)
        with self._changed:
            known, stops = self.owner.known, self.owner.ends_with(step)
        return StepResult(
            self._last_loss_of(known.loss), known.tokens, verdict.grad_norm, compute_s, comm_s, stops,
            staleness=max(lags), layer_norms=None if verdict.skip else norms, loss_scale=used, skipped=verdict.skip,
            lags=lags,
        )  # fmt: skip

    def _last_loss_of(self, loss: float | None) -> float:
        if loss is not None:
            self.last_loss = loss
        if self.last_loss is None:
            what = "no loss has been finite yet: float16 overflows in the forward pass, which no scale mends"
            raise NotFiniteError(f"{what}; use training.precision: bf16 or fp32", None)
        return self.last_loss

    def fence(self, result: StepResult) -> StepResult:
        """Rest with all ranks after the last step; its result, with everybody's loss. Replicas are equal then."""
        began, applied = time.perf_counter(), None
        step = self._taken
        if self._fenced != step:
            self._await(lambda: self.owner.still(step), step)
            with self._changed:
                applied = self.owner.drain(step)
                self._count_alike()
            self._post.rest(step)
            self._raise_error()
            gathering = [
                self.collectives.all_gather(self.flat.bucket(self.flat.params, bucket), piece.values)
                for bucket, piece in zip(self.flat.buckets, self.updates, strict=True)
            ]
            for pending in gathering:
                pending.wait()
            self._begin_equal()
            self._fenced = step
        known = self.owner.known
        waited_s = time.perf_counter() - began
        return replace(
            result, loss=self._last_loss_of(known.loss), tokens=known.tokens, comm_s=result.comm_s + waited_s,
            applied=applied,
        )  # fmt: skip

    def _count_alike(self) -> None:
        """AdamW counts updates, and an owner has taken more or fewer than there were steps: from here on the run's.

        So the count is every owner's, and one that a run with any other bound, strategy or world size goes on with.
        """
        for count in self.adamw.steps:
            count.fill_(self._counted_before + self.owner.trained)

    def _begin_equal(self) -> None:
        """All replicas are the owners' shards now, after the last step."""
        self._parameters.start(self.shard)
        self._came = [[] for _ in self._came]
        self._clocks = [self._taken] * len(self._clocks)

    # -- what comes -----------------------------------------------------------------------------------------------

    def _take(self, sender: int, message: Message, body: torch.Tensor | None) -> None:
        """On the sender's thread."""
        with self._changed:
            if isinstance(message, Push):
                self._push_here(message, None if body is None else lambda box: self._gradients.add(body, box))
            elif isinstance(message, Weights) and body is not None:
                if self._parameters.whole:
                    self._came[sender].clear()
                self._came[sender].append(body)
                self._clocks[sender] = message.clock
            self._changed.notify_all()

    def _push_here(self, push: Push, add: Add | None) -> None:
        """A gradient for this rank's own shard; then weights go to all who may have them. With the lock held."""
        self.owner.push(push, add)
        self.owner.pull(push.rank, push.step + 1)
        for reply in self.owner.due():
            if reply.rank == self.rank:
                self._clocks[self.rank] = reply.clock
            else:
                self._post.send(reply.rank, reply, self._parameters.seal(self.shard, reply.rank))
        self._changed.notify_all()

    def _update(self, lr: float, scale: float) -> None:
        for index in range(len(self.updates)):
            self.adamw.step(index, lr, scale)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _await(self, there: Callable[[], bool], clock: int) -> None:
        """Until it is so, which it is when all ranks have told all others of step `clock`.

        DeadlineError, which names it, if one rank keeps this one waiting for longer than the group's deadline.
        """
        began = time.perf_counter()
        late, deadline = "", Deadline(0.0)
        with self._changed:
            while self._error is None and not there():
                before, late = late, self._waited_for(clock)
                if late != before:  # another rank, or this one has taken a step
                    deadline = Deadline(self.collectives.timeout_s)
                elif deadline.expired:
                    break
                self._changed.wait(deadline.left())
            in_vain = self._error is None and not there()
        self.collectives.blocked_s += time.perf_counter() - began
        self._raise_error()
        if in_vain:
            waited = f"rank {self.rank} waited {deadline.seconds:g} s for it, under a staleness bound of {self.bound}"
            raise self.collectives.verdict(DeadlineError(f"{late}; {waited}"))

    def _waited_for(self, clock: int) -> str:
        """Which rank keeps this one waiting for step `clock`, and how far it is. With the lock held."""
        if self.owner.clock < clock:
            return f"rank {self.owner.slowest} has sent no gradient of step {self.owner.clock + 1}"
        # All gradients are here: what is missing is an answer.
        owner = self._clocks.index(min(self._clocks))
        return f"rank {owner} has not sent its weights with step {self._clocks[owner] + 1}"

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    # -- beside the step ------------------------------------------------------------------------------------------

    def named_slices(self) -> Iterator[Slice]:
        """See Synchronous. Only at a fence: elsewhere there is more than lies here."""
        self._require_fence()
        yield from super().named_slices()

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """See Synchronous. Only at a fence."""
        self._require_fence()
        super().load_slices(slices)
        self._counted_before = int(self.adamw.steps[0].item()) - self.owner.trained
        self.shard.copy_(self.shards.read(self.flat.params, self.rank))
        self._begin_equal()

    def export(self) -> dict[str, torch.Tensor] | None:
        """See Replica. Only at a fence."""
        self._require_fence()
        return super().export()

    def _require_fence(self) -> None:
        if self._fenced != self._taken:
            raise RuntimeError(f"the state was asked for after step {self._taken}, which was not fenced")

    def wire_memory(self) -> list[torch.Tensor]:
        """See Synchronous: what int8 owes, the owner's shard and box, what it keeps for the others."""
        return [*super().wire_memory(), self.shard, self.owner.box, *self._parameters.memory()]
