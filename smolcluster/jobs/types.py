"""What the jobs' parts share: their times, their errors, and what a poll answers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from smolcluster.errors import SmolError
from smolcluster.jobs.pieces import Piece
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import JobState, ServingNote
from smolcluster.runtime.tabletnote import TabletNote
from smolcluster.spec.base import Frozen

# How long ranks may take to end by themselves once told to, before they are ended.
STOP_GRACE_S = 3.0
# A person who stops a run wants its model; a step and a save on a Pi take longer than three seconds.
ASKED_GRACE_S = 10.0
MAX_GRACE_S = 600.0
# From the launch to job.json saying running: a Pi 4 with a cold disk needs most of a minute.
START_DEADLINE_S = 90.0
CONTROL_DEADLINE_S = 5.0
TAIL_LINES = 15

ACTIVE_STATES = frozenset({"starting", "running", "restarting"})
# How a supervisor is started; auto: the way that outlives a login here.
Launcher = Literal["auto", "child", "systemd", "launchd", "schtasks"]


class JobError(SmolError):
    """A job could not be started, reached or stopped. Says on which node and what to do."""

    exit_code: ClassVar[int] = 3


class JobMissing(JobError):
    """There is no such run on this node."""

    exit_code: ClassVar[int] = 2


class JobRefused(SmolError):
    """Another run is active on this node; nothing was started."""

    exit_code: ClassVar[int] = 2

    def __init__(self, node: str, run_id: str, workdir: str) -> None:
        self.node = node
        self.run_id = run_id
        super().__init__(
            f"{node}: the run {run_id} is active in {workdir}; nothing was started.\n"
            "    stop it first:   ansible-playbook stop.yml\n"
            "    or take over:    -e replace=true   (python -m smolcluster job start --replace)"
        )


class RankFailure(Frozen):
    """A rank that failed: why, and the last lines of its log. `root_cause`: of itself, not because a peer did."""

    rank: int
    reason: str
    root_cause: bool
    tail: tuple[str, ...]


class PollResult(Frozen):
    """What `poll_job` answers: the job, the last step of each rank that has made one, and who failed.

    `serving`: how a model is served, where its API is and has said so; `tablets`: how it stands with those that a rank
    there hands over to. `time`: by the node's clock, when it had all of this together; `pieces`: what its files have
    got since, where that was asked for.
    """

    job: JobState
    progress: dict[int, StepRecord] = Field(default_factory=dict)
    failed: tuple[RankFailure, ...] = ()
    serving: ServingNote | None = None
    tablets: tuple[TabletNote, ...] = ()
    time: float = 0.0
    pieces: tuple[Piece, ...] = ()


class RunEntry(Frozen):
    """One line of `job status`: a run's job on one node. `active`: its supervisor is alive.

    `lease_s`: seconds after which it ends by itself unless its lease is renewed; None: it has none, or is over.
    """

    run_dir: str
    active: bool
    lease_s: float | None = None
    job: JobState
