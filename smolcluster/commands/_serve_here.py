"""Serving on this machine without a playbook: the run's folder, its supervisors, and following them until Ctrl-C."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smolcluster.comm.config import read_secret
from smolcluster.commands._here import (
    POLL_EVERY_S,
    Run,
    interrupts,
    lay_out,
    new_folder,
    restarts_of,
    start_all,
    start_lost,
    workdir_of,
)
from smolcluster.jobs.poll import poll_job
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.telling import ServedLines
from smolcluster.jobs.types import ACTIVE_STATES, ASKED_GRACE_S, PollResult
from smolcluster.observe.serving_lines import address_lines, example_lines
from smolcluster.observe.tablet_lines import tablet_link_lines
from smolcluster.plan.types import ServePlan
from smolcluster.runtime.newrun import link_model
from smolcluster.runtime.onetime import make_onetime
from smolcluster.runtime.runfolder import write_atomic
from smolcluster.runtime.tabletnote import tablet_key
from smolcluster.spec.cluster import ClusterSpec

# From the start to the first answer: layers are read from a disk, which may be a slow one.
READY_S = 300.0
LINES_EVERY_S = 5.0


def lay_out_serving(cluster: ClusterSpec, plan: ServePlan, model: Path, exports: Path | None = None) -> Run:
    """Write the run's folder in the workdir of its first node, with a new key where its API asks for one.

    `exports`: where the layers lie that tablets load.
    """
    folder = new_folder(workdir_of(cluster, plan), plan.kind)
    key = folder.path / "api_key"
    stages = {rank.node for rank in plan.ranks if rank.role == "stage"}
    api = plan.ranks[plan.api.rank].node

    def own(node: str) -> dict[str, str | None]:
        return {
            "model_dir": str(model) if node in stages else None,
            "api_key_file": str(key) if node == api and plan.api.asks_for_key else None,
            "tablet_dir": str(exports) if node == plan.ranks[0].node and exports is not None else None,
        }

    run = lay_out(folder, plan, folder.path / "data", cluster, own)
    link_model(folder, model)
    return run


def serve(run: Run, plan: ServePlan) -> None:
    """Start every node's supervisor, say where the model is served, and follow, until all have ended.

    Ctrl-C asks all of them to stop; a second one leaves them to their leases. So does the end of the head's or the
    API's part for good, and a model that does not answer in time.
    """
    asked = threading.Event()
    following = _Following(run, plan)
    with interrupts(asked):
        start_all(run)
        following.until_ended(asked)


class _Following:
    """Polls the nodes, which renews their leases, and prints what is new."""

    def __init__(self, run: Run, plan: ServePlan) -> None:
        self._run, self._plan = run, plan
        self._api = plan.ranks[plan.api.rank].node
        # Without these nothing is served.
        self._needed = {plan.ranks[0].node, self._api}
        width = max(len(node) for node in run.node_files)
        self._lines = {node: ServedLines(node, width, LINES_EVERY_S) for node in run.node_files}
        self._restarts = restarts_of(run, plan.serve.recovery.max_restarts, serves=True)
        self._began = time.monotonic()
        self._ready = False
        self._told: dict[str, str] = {}
        self._links: dict[str, str] = {}

    def until_ended(self, asked: threading.Event) -> None:
        """Returns when no node's part runs any more."""
        pause = threading.Event()
        while True:
            answers = {node: poll_job(self._run.folder.path, node) for node in self._run.node_files}
            self._tell(answers)
            if not asked.is_set() and start_lost(self._run, tuple(answers.values()), self._restarts):
                continue
            if all(answer.job.state not in ACTIVE_STATES for answer in answers.values()):
                break
            why = "interrupted" if asked.is_set() else self._why_over(answers)
            if why:
                self.stop(why)
                continue
            pause.wait(POLL_EVERY_S if self._ready else POLL_EVERY_S / 4)
        now = time.monotonic()
        for node, answer in answers.items():
            self._print(self._lines[node].last(answer, now))

    def _tell(self, answers: dict[str, PollResult]) -> None:
        now = time.monotonic()
        for node, answer in answers.items():
            self._print(self._lines[node].lines(answer, now))
            self._tell_links(answer)
        note = answers[self._api].serving
        if note is None or note.state != "ready" or note.urls == self._told:
            return
        if not self._ready:
            self._ready = True
            write_atomic(self._run.folder.was_ready, "")
        self._told = note.urls  # an API that was started again takes another free port where 0 was asked for
        key = self._key()
        onetime = make_onetime(key, note.time) if key else ""
        self._print([*address_lines(note.urls, key, onetime), *example_lines(note, bool(key))])

    def _tell_links(self, answer: PollResult) -> None:
        """By what link a tablet comes in, when it is waited for, and again if that has changed."""
        for tablet in answer.tablets:
            if tablet.state == "connected" or self._links.get(tablet.tablet) == tablet.address:
                continue
            self._links[tablet.tablet] = tablet.address
            secret = read_secret(self._run.folder.path / "secret", "secret", "start it again")
            self._print(tablet_link_lines(tablet, tablet_key(secret)))

    def _key(self) -> str:
        file = self._run.folder.path / "api_key"
        return file.read_text(encoding="utf-8").strip() if self._plan.api.asks_for_key else ""

    def _why_over(self, answers: dict[str, PollResult]) -> str:
        """Why nothing is, or will be, served any more; "" while that may be."""
        # Before it answers for the first time it wants everybody.
        needed = self._needed if self._ready else set(answers)
        gone = [node for node in needed if answers[node].job.state not in ACTIVE_STATES]
        if gone:
            return f"{', '.join(sorted(gone))} has ended, and nothing is served without it"
        waited_s = time.monotonic() - self._began
        if self._ready or waited_s < READY_S + (self._plan.serve.tablet_wait_s if self._plan.tablets else 0.0):
            return ""
        note = answers[self._api].serving
        reason = f"not ready after {waited_s:.0f} s: {note.reason or note.state if note else 'its API has not begun'}"
        # What the report of a playbook's run finds too.
        outcome = {"state": "failed", "reason": reason, "at_once": True, "time": time.time()}
        write_atomic(self._run.folder.followed(self._api), json.dumps(outcome))
        print(reason, file=sys.stderr, flush=True)
        return reason

    def stop(self, why: str) -> None:
        """Stop everybody at the same time: a stage whose head has gone would be started again."""

        with ThreadPoolExecutor(len(self._run.node_files)) as pool:
            ends = [
                pool.submit(stop_job, self._run.folder.path, node, why, ASKED_GRACE_S) for node in self._run.node_files
            ]
        for end in ends:
            end.result()

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            print(line, flush=True)
