"""What an answer of GET /dashboard/state is made from: one look at a run's nodes, files and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from smolcluster.dashboard.answers import ServingNow
from smolcluster.dashboard.columns import Columns
from smolcluster.dashboard.series import RankColumns
from smolcluster.jobs.watching import Look
from smolcluster.plan.types import Plan, ServePlan
from smolcluster.runtime.runfolder import Summary


@dataclass(frozen=True)
class Followed:
    """What the controller's own files say of a node: how following it ended, how long ago it answered, its clock."""

    state: str = ""
    reason: str = ""
    heard_s: float | None = None
    clock_offset_s: float | None = None


@dataclass(frozen=True)
class Seen:
    """Everything that an answer is made from, as it was at `now`."""

    now: float
    plan: Plan | ServePlan
    look: Look
    ranks: Sequence[RankColumns]
    machines: Mapping[str, Columns]
    followed: Mapping[str, Followed]
    summary: Summary | None = None
    serving: ServingNow | None = None
    started: float | None = None
    data: str = ""
    notes: list[str] = field(default_factory=list)
