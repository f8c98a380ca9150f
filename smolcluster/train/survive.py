"""A rank that outlives its group: what it carries from the group that failed into the next, in this very process."""

from __future__ import annotations

import logging
import math

from smolcluster.errors import PeerError
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.failures import understand
from smolcluster.strategies.base import Strategy, Survives
from smolcluster.train.account import SCORES, Account

log = logging.getLogger(__name__)

# So many groups in a row may fail before the run gets any further; then whatever is wrong is not over.
MOST_IN_VAIN = 3


class Survivor:
    """What a rank has with it between two groups: nothing in a process that has just begun."""

    def __init__(self) -> None:
        self._carried: object | None = None
        self._in_group = False
        self._steps = -1
        self._in_vain = 0

    def outlives(self, error: BaseException, steps: int) -> bool:
        """Whether this rank goes on after the error that ended its group, or its way into one, after so many steps."""
        failure = understand(error)
        if self._carried is None or failure.exit_code != PeerError.exit_code or failure.final:
            return False
        self._in_vain = self._in_vain + 1 if steps <= self._steps else 0
        self._steps = steps
        if self._in_vain >= MOST_IN_VAIN:
            return False
        log.warning("%s. This rank keeps what it has, and meets those who are left", failure.reason)
        return True

    def keep(self, strategy: Strategy, error: BaseException) -> None:
        """The group failed: take along what the strategy holds, if it is whole and others are to blame."""
        if self._in_group and isinstance(strategy, Survives) and understand(error).exit_code == PeerError.exit_code:
            self._carried = strategy.carry()
        self._in_group = False

    def forget(self) -> None:
        """The work is done: there is nothing to go on with."""
        self._carried, self._in_group = None, False

    def arrive(self) -> None:
        """What this rank is to begin with stands in its strategy."""
        self._carried, self._in_group = None, True

    def meet(self, context: RunContext, strategy: Strategy, account: Account) -> bool:
        """Go on in a new group, if anybody in it carries anything. All its ranks call it."""
        met = strategy.meet(self._carried) if isinstance(strategy, Survives) else None
        if met is None:
            return False
        scores = [math.nan if value is None else value for value in account.scores().values()]
        rows = strategy.exchange([account.seconds, float(account.tokens), *scores])
        seconds, _, *told = rows[met.leader]
        account.steps, account.seconds, account.stopped = met.steps, seconds, False
        account.take_scores({n: None if math.isnan(v) else v for n, v in zip(SCORES, told, strict=True)})
        if context.rank == 0:
            # The sum is what counts: rank 0 stands for those who are not here, or have forgotten what they did.
            account.tokens = met.tokens - sum(int(row[1]) for row in rows[1:])
        strategy.last_loss = account.loss_last
        log.info("goes on after step %d with what ranks had in memory", account.steps)
        return True
