"""Looking at a run from outside: what each node of it does now. Changes nothing, and renews no lease.

Of a node whose files are here (a run on this machine) these are read; of one that a playbook follows elsewhere, what it
answered last (`.follow/.heard/`). Both may be half written or of another version: then there is nothing to see yet.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from smolcluster.jobs.poll import active_here, failures, serving_now
from smolcluster.jobs.state import read_state, told_by_ranks
from smolcluster.jobs.tail import last_step
from smolcluster.jobs.types import ACTIVE_STATES, START_DEADLINE_S, JobError, PollResult
from smolcluster.plan.types import RankPlan
from smolcluster.runtime.results import read_result
from smolcluster.runtime.runfolder import JobState, RunFolder

# A playbook asks about every three seconds, and gives a node up after fifteen; a step may take longer.
HEARD_S = 60.0
# A supervisor that died is started again by whoever follows the run.
AGAIN_S = 20.0
# From the end of the nodes' parts until a playbook has collected them and made the summary.
COLLECT_S = 120.0


@dataclass(frozen=True)
class Look:
    """All nodes of a run, in the plan's order; None of whom nothing is known yet. `over`: nobody is at it any more.

    `alone`: nodes elsewhere of a run that was started to go on without this machine, until what was collected of them
    says that their part has ended. It may be over or not, nobody here can tell.
    """

    nodes: dict[str, PollResult | None]
    over: bool
    alone: tuple[str, ...] = ()


def going_alone(folder: RunFolder, nodes: Sequence[str]) -> str:
    """What to do about `Look.alone`."""
    goes = "goes" if len(nodes) == 1 else "go"
    what = f"{', '.join(nodes)} {goes} on without this machine (detached), which hears nothing of it"
    collect = f"ansible-playbook collect.yml -e run_id={folder.path.name}"
    return f"{what}: {collect} brings what is new, as often as it is called"


class Lookout:
    """Looks at one run again and again."""

    def __init__(self, folder: RunFolder, ranks: tuple[RankPlan, ...]) -> None:
        self._folder = folder
        self._nodes = tuple(dict.fromkeys(rank.node for rank in ranks))
        self._ranks = {node: tuple(rank.rank for rank in ranks if rank.node == node) for node in self._nodes}
        self._quiet_since: float | None = None

    def look(self, now: float | None = None) -> Look:
        """What is known of the nodes at `now`, seconds since 1970."""
        now = time.time() if now is None else now
        here = set(active_here(self._folder.path, self._nodes))
        found = {node: self._supervised(node) or self._heard(node) or self._alone(node, now) for node in self._nodes}
        going = [node for node in self._nodes if node in here or self._is_followed(node, found[node], now)]
        if going or self._begins(found, now):
            self._quiet_since = None
            return Look(found, over=False, alone=self._alone_elsewhere(found))
        if self._quiet_since is None:
            self._quiet_since = now
        over = now - self._quiet_since >= self._patience_s(found)
        return Look(found, over, self._alone_elsewhere(found))

    def _alone_elsewhere(self, found: dict[str, PollResult | None]) -> tuple[str, ...]:
        """A node's own folder has its node.yaml, which is never collected."""
        if not self._folder.detached.exists():
            return ()
        elsewhere = [node for node in self._nodes if not (self._folder.node(node) / "node.yaml").exists()]
        ended = {node for node, answer in found.items() if answer and answer.job.state not in ACTIVE_STATES}
        return tuple(node for node in elsewhere if node not in ended)

    def _supervised(self, node: str) -> PollResult | None:
        try:
            state = told_by_ranks(self._folder, read_state(self._folder, node))
        except JobError:
            return None
        return self._with_steps(state)

    def _alone(self, node: str, now: float) -> PollResult | None:
        """A rank that trains in the process of its command (one rank, here) has no supervisor that tells of it."""
        if self._folder.detached.exists():
            return None  # it has supervisors, and what lies here of others was collected
        written = [self._written(path) for path in (self._folder.log(node, rank) for rank in self._ranks[node])]
        if not any(written):
            return None
        results = [read_result(self._folder, node, rank) for rank in self._ranks[node]]
        state = next((result.status for result in results if result is not None), None)
        if state is None and now - max(written) > HEARD_S:
            return None
        return self._with_steps(
            JobState(
                run_id=self._folder.path.name,
                node=node,
                state=state or "running",
                pid=0,
                generation=0,
                ranks=dict.fromkeys(self._ranks[node], "running" if state is None else "0"),
            )
        )

    def _with_steps(self, state: JobState) -> PollResult:
        steps = {rank: last_step(self._folder.metrics(state.node, rank)) for rank in state.ranks}
        return PollResult(
            job=state,
            progress={rank: step for rank, step in steps.items() if step is not None},
            failed=failures(self._folder, state),
            serving=serving_now(self._folder, state),
        )

    def _heard(self, node: str) -> PollResult | None:
        try:
            return PollResult.model_validate_json(self._folder.heard(node).read_bytes())
        except (OSError, ValidationError):
            return None

    def _is_followed(self, node: str, answer: PollResult | None, now: float) -> bool:
        """Whether somebody else than a supervisor here is at it: a playbook, or a process that trains alone."""
        if answer is None or answer.job.state not in ACTIVE_STATES or self._folder.followed(node).exists():
            return False
        if answer.job.pid == 0:
            return True
        return now - self._written(self._folder.heard(node)) < HEARD_S

    def _begins(self, found: dict[str, PollResult | None], now: float) -> bool:
        """Whether it is so new that no node has answered."""
        if any(answer is not None for answer in found.values()) or self._folder.summary.exists():
            return False
        return now - self._written(self._folder.plan) < START_DEADLINE_S

    def _patience_s(self, found: dict[str, PollResult | None]) -> float:
        """How long nobody may be at it until it is over."""
        if self._folder.summary.exists():
            return 0.0
        if any(self._folder.heard(node).exists() for node in self._nodes):
            return COLLECT_S
        ended = all(answer is not None and answer.job.state not in ACTIVE_STATES for answer in found.values())
        return 0.0 if ended else AGAIN_S

    @staticmethod
    def _written(path: Path) -> float:
        """When a file was written last; 0 if there is none."""
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
        return 0.0
