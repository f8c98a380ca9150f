"""What a rank of diloco holds: parameters, its own optimizer and the outer one, how far the run is; and how that is
saved, loaded, and taken along when the group of ranks fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.runtime.device import Collectives
from smolcluster.runtime.slices import CARRIED, Slice, fill
from smolcluster.strategies.base import Met
from smolcluster.strategies.diloco.inner import Work
from smolcluster.strategies.diloco.outer import Outer
from smolcluster.strategies.diloco.slots import Conclusion
from smolcluster.strategies.diloco.survivors import NOTHING, Carried, Standing, Sum, regroup
from smolcluster.strategies.flat import Layout
from smolcluster.strategies.pieces import Piece, Range, slices_of, whole_slices
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.sums import Sums, sums_of
from smolcluster.strategies.synchronous import tokens_of_a_step

# Of checkpoints: what all ranks have alike, and what is this rank's alone.
MOMENTUM = CARRIED + "outer.momentum.{}"
PROGRESS = CARRIED + "outer.progress"
INNER = CARRIED + "inner.{}of{}."
_ROUNDS, _SAMPLES, _SLOT, _GENERATION = range(4)


class RoundReplica(Replica):
    """A replica with an anchor. `work`: what it has done since its last contribution; `ready`: what all concluded from
    the table of a round whose sum is there and not committed. `generation`: its group of ranks.
    """

    sums_gradients = False

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients([(0, self.flat.length)], send=None)
        run = context.run
        self.outer = Outer(self.flat, self.sums, run.outer_lr, run.outer_momentum)
        self.work = Work()
        self.ready: Conclusion | None = None
        self.generation = context.generation
        # Of how many global batches any rank has had its share, as the last table said.
        self.most_taken = 0
        # So many first steps of the run are rounds of one step, followed as they are.
        self.warmup = run.outer_warmup
        self._batch = context.plan.global_batch
        self._sample_tokens = tokens_of_a_step(context) // self._batch
        # Rounds, samples of all ranks, the next slot in seconds (0 before there is a table, which makes one step), and
        # the group of ranks that made the last round.
        self._progress = torch.zeros(4, dtype=torch.float64)
        self._taken = torch.zeros((), dtype=torch.float64)

    def sums_over(self, layout: Layout) -> Sums:
        """How contributions are summed over ranks: they are no gradients, and need no unit."""
        return sums_of(self._wire, layout, self.wires_of_rounds(), lambda: 1.0)

    def wires_of_rounds(self) -> Collectives:
        """What contributions travel through."""
        return self.collectives

    # -- how far the run is ---------------------------------------------------------------------------------------

    @property
    def rounds_done(self) -> int:
        """Rounds that are committed."""
        return int(self._progress[_ROUNDS])

    @property
    def samples_done(self) -> int:
        """Samples of all ranks in rounds that are committed."""
        return int(self._progress[_SAMPLES])

    @property
    def steps(self) -> int:
        """Whole global batches in the samples that all ranks took."""
        return self.samples_done // self._batch

    @property
    def slot_s(self) -> float:
        """How long the next slot is; 0 where nobody knows, which makes it one step."""
        return float(self._progress[_SLOT])

    @property
    def taken(self) -> int:
        """Of how many global batches this rank has had its share, but for its work since its last contribution."""
        return int(self._taken)

    def catch_up(self, steps: int) -> None:
        """Where the run went on from a checkpoint of another strategy, or of other shares, count from its steps."""
        if self.steps != steps:
            self._progress[_SAMPLES] = steps * self._batch
            self._taken.fill_(max(self.taken, steps))

    def commit(self, total: torch.Tensor, table: Conclusion, part: Work) -> None:
        """Take the outer step with the sum of a round, and count it. `part`: what this rank did of it."""
        began = self.samples_done // self._batch
        self.outer.commit(total, plain=began < self.warmup)
        self._progress[_ROUNDS] += 1
        self._progress[_SAMPLES] += table.samples
        self._progress[_SLOT] = table.slot_s
        self._progress[_GENERATION] = self.generation
        self._taken += part.steps
        self._steps = self.rounds_done
        self.ready = None

    # -- from one group of ranks to the next ----------------------------------------------------------------------

    def carry(self) -> Carried:
        """See Survives."""
        ready = None
        if self.ready is not None:
            ready = self.waiting_sum(self.ready, self.outer.owed())
        self.outer.take_back()
        self.close()
        return Carried(
            standing=Standing(
                self.rounds_done,
                int(self._progress[_GENERATION]),
                self.generation if ready is not None else NOTHING,
                max(self.most_taken, self.taken + self.work.steps),
            ),
            world_size=self.collectives.world_size,
            params=self.flat.params,
            anchor=self.outer.anchor,
            momentum=self.outer.momentum,
            moments=(self.adamw.exp_avg[0], self.adamw.exp_avg_sq[0], self.adamw.steps[0]),
            owed=self.outer.owed(),
            progress=self._progress,
            taken=int(self._taken),
            work=self.uncommitted(),
            sum=ready,
        )

    def waiting_sum(self, table: Conclusion, owed: torch.Tensor | None) -> Sum:
        """The round that only has to be committed."""
        return Sum(self.whole_grads, owed, table, self.work, None, Work())

    def uncommitted(self) -> Work:
        """All that this rank has done and nobody has committed."""
        return self.work

    def meet(self, carried: object | None) -> Met | None:
        """See Survives; survivors.py says who goes on with what."""
        mine = carried if isinstance(carried, Carried) else None
        standing = mine.standing if mine is not None else Standing()
        found = regroup([Standing.of(row) for row in self.collectives.exchange(standing.values())])
        if found is None:
            return None
        if mine is not None and self.rank not in found.joiners:
            self._take_up(mine, commits=self.rank in found.committing)
        if found.joiners:
            self._give(found.leader, joins=self.rank in found.joiners)
        if found.joiners or mine is None or mine.world_size != self.collectives.world_size:
            # Shares are others now, or somebody does not know what it has had: all begin where nobody has been.
            self._taken.fill_(found.taken)
        self.most_taken = found.taken
        return Met(found.leader, self.steps, self.samples_done * self._sample_tokens)

    def _take_up(self, carried: Carried, commits: bool) -> None:
        """Go on with what this rank had. `commits`: others have committed the round whose sum it holds."""
        own = (self.flat.params, self.outer.anchor, *self._moments())
        for here, there in zip(own, (carried.params, carried.anchor, *carried.moments), strict=True):
            _copy(there, here)
        if self.outer.momentum is not None and carried.momentum is not None:
            _copy(carried.momentum, self.outer.momentum)
        self.outer.owe(carried.owed)
        self._progress.copy_(carried.progress)
        self._taken.fill_(carried.taken)
        self.work = carried.work
        if commits and carried.sum is not None:
            self.whole_grads.zero_()
            _copy(carried.sum.total, self.whole_grads)
            self.outer.owe(carried.sum.owed)
            self.commit(self.whole_grads, carried.sum.table, carried.sum.part)
            self._progress[_GENERATION] = carried.standing.ready
            self.flat.params.copy_(self.outer.anchor)
            if carried.sum.since is not None:
                length = min(len(carried.sum.since), self.flat.length)
                self.flat.params[:length].add_(carried.sum.since[:length])
            self.work = carried.sum.work

    def _give(self, leader: int, joins: bool) -> None:
        """Joiners get what the leader has; the others keep their own optimizers."""
        self.collectives.broadcast(self.outer.anchor, leader)
        self.collectives.broadcast(self._progress, leader)
        if self.outer.momentum is not None:
            self.collectives.broadcast(self.outer.momentum, leader)
        for moment in self._moments():
            keeps = not joins and self.rank != leader
            self.collectives.broadcast(torch.empty_like(moment) if keeps else moment, leader)
        if joins:
            self.flat.params.copy_(self.outer.anchor)

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """This rank's own AdamW: mean, mean square, steps."""
        return self.adamw.exp_avg[0], self.adamw.exp_avg_sq[0], self.adamw.steps[0]

    # -- by name --------------------------------------------------------------------------------------------------

    def named_slices(self) -> Iterator[Slice]:
        """See Replica: of the moments a piece from every rank. Besides the momentum, and all of this rank's moments."""
        yield from super().named_slices()
        yield from self._momentum_slices(self.my_shards())
        yield from self._inner_slices(*self._moments())
        if self.rank == 0:
            yield from whole_slices({PROGRESS: self._progress})

    def held_slices(self) -> Iterator[Slice]:
        """See Replica."""
        yield from super().held_slices()
        yield from self._momentum_slices(None)
        yield from self._inner_slices(*self._moments())
        yield from whole_slices({PROGRESS: self._progress})

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """Take all that lies here. Moments of another world's ranks are those of all alike, as of another strategy."""
        self.sums.forget()
        own = [torch.zeros_like(tensor) for tensor in self._moments()]
        prefix = INNER.format(self.rank, self.collectives.world_size)
        held = [part for part in self.held_slices() if not part.name.startswith(prefix)]
        untouched = fill([*held, *self._inner_slices(own[0], own[1], own[2])], slices)
        if prefix + "step" not in untouched:
            for tensor, mine in zip(self._moments(), own, strict=True):
                tensor.copy_(mine)
        self.outer.begin_at(self.flat.params)

    def state_bytes(self) -> dict[str, int]:
        """See Replica; the anchor and the momentum are the outer optimizer's."""
        outer = [self.outer.anchor, *([self.outer.momentum] if self.outer.momentum is not None else [])]
        return super().state_bytes() | {"outer": sum(tensor.nbytes for tensor in outer)}

    def _momentum_slices(self, within: list[Range] | None) -> Iterator[Slice]:
        if self.outer.momentum is not None:
            yield from slices_of(self.flat, MOMENTUM, [Piece(0, self.flat.length, self.outer.momentum)], within)

    def _inner_slices(self, mean: torch.Tensor, square: torch.Tensor, steps: torch.Tensor) -> Iterator[Slice]:
        prefix = INNER.format(self.rank, self.collectives.world_size)
        for name, values in (("exp_avg", mean), ("exp_avg_sq", square)):
            yield from slices_of(self.flat, prefix + "{}." + name, [Piece(0, self.flat.length, values)], None)
        yield from whole_slices({prefix + "step": steps, prefix + "taken": self._taken})


def _copy(there: torch.Tensor, here: torch.Tensor) -> None:
    """Between vectors that differ in their padding alone."""
    if not here.dim():
        here.copy_(there)
        return
    length = min(len(here), len(there))
    here[:length].copy_(there[:length])
