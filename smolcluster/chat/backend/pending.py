"""A head that is still to come: the API serves before the model is there, and says so."""

from __future__ import annotations

from collections.abc import Callable

from smolcluster.errors import PeerLostError
from smolcluster.infer.head import About, Head, Health
from smolcluster.infer.request import Event, Request
from smolcluster.infer.stream import Stream


class PendingHead:
    """A Head. Until another is `put` into it, it refuses everything with the `reason` that it was told last."""

    def __init__(self, reason: str = "the model's head has not answered yet") -> None:
        self._head: Head | None = None
        self.reason = reason

    def put(self, head: Head) -> None:
        """It is there."""
        self._head = head

    def about(self) -> About:
        """The model."""
        return self._now().about()

    def submit(self, request: Request, tell: Callable[[Event], None]) -> Stream:
        """Begin a request."""
        return self._now().submit(request, tell)

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        return self._now().count(text)

    def health(self) -> Health:
        """The truth of now."""
        return Health(state="starting", reason=self.reason) if self._head is None else self._head.health()

    def reconnect(self, within_s: float) -> None:
        """Connect all stages anew."""
        self._now().reconnect(within_s)

    def close(self) -> None:
        """Let go of it."""
        if self._head is not None:
            self._head.close()

    def _now(self) -> Head:
        if self._head is None:
            raise PeerLostError(f"the model is not ready yet: {self.reason}")
        return self._head
