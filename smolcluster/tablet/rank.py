"""The rank of a tablet's stage: a process on the head's machine that hands hidden states over, and back into the chain.

    wait       for the tablet, and say so; without it in time, where nobody serves without it, the run ends
    serve      be a stage like any other, as long as the tablet is there
    a loss     leave the chain as a stage that died does: the head waits, or spreads the layers anew; wait again

So the head knows of no tablets: a stage is there, or is not. What was under way is sent again from its first token.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import AbsentError, ConfigError, DeadlineError, PeerError, Problem
from smolcluster.files import explain_with_path
from smolcluster.infer.group import group_of
from smolcluster.infer.linkwatch import links_recorded
from smolcluster.infer.rank import serve_stage
from smolcluster.models.dense import ACTIVATIONS
from smolcluster.models.partition import LayerRange
from smolcluster.plan.types import NodeConfig, RankPlan, ServePlan, TabletPlan
from smolcluster.runtime.process import Stop, give_back_memory
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.runtime.tabletnote import State, TabletNote, read_tablet, tablet_key, write_tablet
from smolcluster.spec.shape import read_shape
from smolcluster.tablet.greeting import Self
from smolcluster.tablet.layers import TabletLayers
from smolcluster.tablet.meeting import AtApp, AtPage, Meeting
from smolcluster.tablet.messages import Ready
from smolcluster.tablet.remote import TabletStage, Waits
from smolcluster.tablet.stages import offer_of

log = logging.getLogger("smolcluster.tablet")
# One attempt to connect, and the pause before the next: a stop is heard meanwhile.
_ATTEMPT_S, _PAUSE_S = 5.0, 0.5
# How often a note is written while nothing but its time changes.
_TELL_S = 2.0
_LOOK_S = 0.25


def run_tablet(config: NodeConfig, plan: ServePlan, me: RankPlan, stop: Stop) -> None:
    """Serve until `stop`. AbsentError: the tablet did not come, and nobody serves without it; else as run_stage."""
    if config.model_dir is None or config.tablet_dir is None:
        key = "model_dir" if config.model_dir is None else "tablet_dir"
        what = f"node.yaml names no {key} for {me.node}, which hands over to {plan.machine(me.rank)}"
        raise ConfigError([Problem("", 0, key, what, "run the playbook again")])
    group = group_of(config, plan, me)
    stage, tablet = plan.stages[me.rank], plan.tablets[me.rank]
    folder = Path(config.model_dir)
    part = LayerRange(stage.start, stage.stop, plan.layers)
    offer = offer_of(plan, me.rank, folder, Path(config.tablet_dir))
    give_back_memory()  # the weights were read for their hash
    said = Self("cluster", config.run_id, me.node, tablet_key(group.secret))
    meeting: Meeting
    if tablet.app == "native":
        meeting = AtApp(Endpoint(tablet.host, tablet.port), said)
    else:
        meeting = AtPage(tablet, said, me.node, config.certificates, plan.ca)
    packages: dict[str, Path] = {tablet.format: offer.exported.folder}
    remote = TabletStage(meeting.connect, offer.assign, Waits(connect_s=_ATTEMPT_S), packages)
    layers = TabletLayers(remote, read_shape(folder), part, ACTIVATIONS[plan.serve.model.precision])
    recorded = partial(links_recorded, config, plan, me)
    with _Attendant(config, me, tablet, meeting, remote, stop) as attendant:
        while attendant.await_tablet(plan.serve.tablet_wait_s):
            serve_stage(group, layers.planned, recorded, attendant, attendant.why)


class _Attendant:
    """Waits for one tablet, and tells of it. A Stop of the stage: once the tablet has gone, or the rank is to end."""

    def __init__(
        self, config: NodeConfig, me: RankPlan, tablet: TabletPlan, meeting: Meeting, remote: TabletStage, stop: Stop
    ) -> None:
        self._folder, self._run = RunFolder(Path(config.run_dir)), config.run_id
        self._me, self._tablet = me, tablet
        self._meeting, self._remote, self._stop = meeting, remote, stop
        before = read_tablet(self._folder, me.node, me.rank)
        # Of an earlier process of this rank: a tablet that came once is waited for as long as the run lasts.
        self._came = before is not None and before.came
        self._reason = ""
        self._left: Deadline | None = None
        self._told: tuple[TabletNote, float] | None = None
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="smol-stop", daemon=True)

    def __enter__(self) -> _Attendant:
        self._remote.on_connected = lambda: self._tell("loading")
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()
        self._end()
        self._tell("waiting")

    def __call__(self) -> bool:
        """Whether nothing is computed here any more."""
        return self._stop() or not self._remote.connected

    def wait(self, timeout_s: float) -> bool:
        """The same after so many seconds, or as soon as the rank is to end."""
        return self._stop.wait(timeout_s) or not self._remote.connected

    def why(self) -> str:
        """Why the tablet has gone, for the head to tell."""
        return f"{self._tablet.node}: {self._remote.ended}" if not self._stop() else ""

    def await_tablet(self, wait_s: float) -> bool:
        """Until it is there, with its layers. False: the rank is to end. AbsentError."""
        self._left = None if self._came else Deadline(wait_s)
        self._reason = self._remote.ended
        while not self._stop():
            self._tell("waiting")
            try:
                ready = self._remote.open()
            except PeerError as error:
                # That nobody came is what it is told anyway.
                self._reason = "" if isinstance(error, DeadlineError) else str(error)
                if self._left is not None and self._left.expired:
                    if not self._tablet.optional:
                        raise AbsentError(self._absent(wait_s)) from error
                    self._left = None
                self._stop.wait(_PAUSE_S)
                continue
            self._came, self._left, self._reason = True, None, ""
            self._tell("connected", ready)
            log.info("%s is connected: %s, %s", self._tablet.node, ready.device, ready.format)
            return True
        return False

    def _absent(self, wait_s: float) -> str:
        name, why = self._tablet.node, f": {self._reason}" if self._reason else ""
        if self._tablet.app == "native":
            how = f"start the app on it, at {self._meeting.address}, and keep it in front"
        else:
            how = "open the page's link in its browser, and keep it in front"
        return (
            f"{name} did not come within {wait_s:g} s{why}\n    fix: {how}; wait longer with -e tablet_wait_s=300"
            f" (--override tablet_wait=300); or serve without it: -e optional={name} (--override optional={name})"
        )

    def _tell(self, state: State, ready: Ready | None = None) -> None:
        now = time.monotonic()
        note = TabletNote(
            time=time.time(),
            run=self._run,
            tablet=self._tablet.node,
            app=self._tablet.app,
            state=state,
            address=self._meeting.address,
            layers=self._remote.assign.layers,
            left_s=self._left.left() if self._left is not None and state == "waiting" else None,
            came=self._came,
            reason=self._reason if state == "waiting" else "",
            device=ready.device if ready is not None else "",
            format=ready.format if ready is not None else "",
        )
        if self._told is not None:
            before, when = self._told
            same = before.model_copy(update={"time": note.time, "left_s": note.left_s}) == note
            if same and now - when < _TELL_S:
                return
        self._told = note, now
        try:
            write_tablet(self._folder, self._me.node, self._me.rank, note)
        except OSError as error:  # nobody's layers depend on it
            log.error("%s", explain_with_path(error))

    def _watch(self) -> None:
        """Whoever waits for the tablet is woken by a stop."""
        while not self._over.is_set():
            if self._stop.wait(_LOOK_S):
                self._end()
                return

    def _end(self) -> None:
        self._meeting.close()
        self._remote.close()
