"""Ending a run because somebody at the dashboard asks for it, as stop.yml does: the one thing that changes anything.

Its part on this machine ends through its supervisor's control link. The other machines are ended by whoever follows
them: a playbook looks for a wish in the run's folder, and ends a node when one that the run needs has stopped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Literal

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.errors import SmolError
from smolcluster.jobs.poll import active_here
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import ASKED_GRACE_S
from smolcluster.runtime.runfolder import RunFolder, StopWish, write_atomic

log = logging.getLogger("smolcluster.dashboard")
REASON = "stopped at the dashboard"
# Who ends the parts that are not on this machine: a playbook here that sees a wish, one that sees this machine's part
# end, or nobody.
Others = Literal["wish", "follow", "nobody"]


class Stopper:
    """Of one run."""

    def __init__(self, folder: RunFolder, nodes: Iterable[str], others: Others) -> None:
        self._folder = folder
        self._nodes = tuple(nodes)
        self._others = others

    def stop(self, active: Iterable[str], followed: bool) -> list[str]:
        """Begin to end it everywhere; those who were asked. `active`: machines whose part goes on; `followed`: a
        playbook here is at it. ApiError 409 where this cannot be done from here.
        """
        here = active_here(self._folder.path, self._nodes)
        away = [node for node in active if node not in here]
        if away and not (self._others == "follow" and here) and not (self._others == "wish" and followed):
            fix = f"ansible-playbook stop.yml -e run_id={self._folder.path.name}"
            message = f"nobody here can reach {', '.join(away)}: {fix}"
            raise ApiError(409, message, code="not_from_here")
        if away and self._others == "wish":
            wish = StopWish(time=time.time(), reason=REASON)
            write_atomic(self._folder.stop_wish, wish.model_dump_json(by_alias=True) + "\n")
        # All at the same time: ranks agree to end after the same step. The answer does not wait for it.
        for node in here:
            threading.Thread(target=self._end, args=(node,), name=f"stop-{node}", daemon=True).start()
        return [*here, *away]

    def _end(self, node: str) -> None:
        try:
            stop_job(self._folder.path, node, REASON, ASKED_GRACE_S)
        except (SmolError, OSError) as error:
            log.error("%s could not be stopped: %s", node, error)
