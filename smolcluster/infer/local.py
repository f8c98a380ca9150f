"""The head in this very process: what the API sees of an Engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from smolcluster.infer.engine import Engine
from smolcluster.infer.head import About, Health
from smolcluster.infer.request import Event, Request
from smolcluster.infer.stream import Stream
from smolcluster.plan.types import TabletPlan
from smolcluster.runtime.tabletnote import TabletNote


class LocalHead:
    """A Head. `nodes` names the machine of each rank, `tablets` has those of tablets, of which `notes` tells more. The
    engine is closed with it.
    """

    def __init__(
        self,
        engine: Engine,
        about: About,
        nodes: Mapping[int, str] | None = None,
        tablets: Mapping[int, TabletPlan] | None = None,
        notes: Callable[[], tuple[TabletNote, ...]] = tuple,
    ) -> None:
        self._engine = engine
        self._about = about
        self._nodes = dict(nodes or {})
        self._tablets = dict(tablets or {})
        self._notes = notes

    def about(self) -> About:
        """The model."""
        return self._about

    def submit(self, request: Request, tell: Callable[[Event], None]) -> Stream:
        """Begin a request: Engine.submit."""
        return self._engine.submit(request, tell)

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        return self._engine.count(text)

    def health(self) -> Health:
        """Never raises."""
        health = self._engine.health(self._nodes)
        stages = [
            stage.model_copy(update={"tablet": self._tablets[stage.rank].app if stage.rank in self._tablets else ""})
            for stage in health.stages
        ]
        return health.model_copy(update={"stages": tuple(stages), "tablets": self._notes()})

    def reconnect(self, within_s: float) -> None:
        """Connect all stages anew: Engine.reconnect."""
        self._engine.reconnect(within_s)

    def close(self) -> None:
        """End the engine. Idempotent."""
        self._engine.close()
