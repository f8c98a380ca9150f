"""What a line of progress says of its node beside the others: that it is the slowest, or waits, or takes no step.

The words are those of `watch`'s screen. Who follows one node alone, as a playbook's task does, looks at the others too:
at their own files, or at what the playbook heard of them last.
"""

from __future__ import annotations

import time

from smolcluster.jobs.watching import Lookout
from smolcluster.observe.live import History, NodeView, remarks
from smolcluster.plan.types import RankPlan
from smolcluster.runtime.runfolder import RunFolder

# Lines of several nodes are due at about the same time.
_SAME_LOOK_S = 1.0


class Remarks:
    """Of one run. Looks when it is asked, at most about once a second."""

    def __init__(self, folder: RunFolder, ranks: tuple[RankPlan, ...]) -> None:
        self._lookout = Lookout(folder, ranks)
        self._server = ranks[0].node if ranks[0].role == "server" else None
        self._history = History()
        self._looked = 0.0
        self._said: dict[str, str] = {}

    def of(self, node: str, now: float | None = None) -> str:
        """The word for a node, "" where there is none. `now`: seconds since 1970."""
        now = time.time() if now is None else now
        if abs(now - self._looked) >= _SAME_LOOK_S:
            self._looked = now
            answers = self._lookout.look(now).nodes
            views = {
                name: NodeView(answer.job, answer.progress) if answer is not None else NodeView(None, {})
                for name, answer in answers.items()
            }
            self._history.take(views)
            said = remarks(views, self._history, now, self._server)
            self._said = {name: word for name, (word, _) in said.items()}
        return self._said.get(node, "")
