"""What the API of a served model writes: how serving goes, and each request that ended. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from smolcluster.spec.base import Frozen

SERVING_SCHEMA = 1


class ServingNote(Frozen):
    """How serving goes, whole and atomic at every change and about every second. `urls`: api, page.

    `model` is the name that requests give, "" before it is known; `chat`: it has a chat template.
    `state` is what /health says: ready, or why not in `reason`. Counts are since the API's rank began. `layers`: by
    rank of a stage those it had when it was ready last ("0:10"); one that is missing then served none.
    `ms_per_token` (recent) and `sessions` are of stages, by rank.
    """

    schema_: int = Field(default=SERVING_SCHEMA, alias="schema", serialization_alias="schema")
    time: float
    state: Literal["starting", "ready", "lost", "closed"]
    reason: str = ""
    urls: dict[str, str] = Field(default_factory=dict)
    layers: dict[int, str] = Field(default_factory=dict)
    ms_per_token: dict[int, float] = Field(default_factory=dict)
    sessions: dict[int, int] = Field(default_factory=dict)
    model: str = ""
    chat: bool = False
    active: int = 0
    waiting: int = 0
    requests: int = 0
    failed: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0


class RequestRecord(Frozen):
    """One line of requests.jsonl: a request that ended. No word of what was asked or answered. Times in seconds.

    `finish`: stop, length, cancelled, or the error's kind. `first_s`: from its arrival to the first token.
    """

    schema_: int = Field(default=SERVING_SCHEMA, alias="schema", serialization_alias="schema")
    time: float
    id: str
    endpoint: str
    status: int
    stream: bool
    prompt_tokens: int
    completion_tokens: int
    first_s: float | None = None
    seconds: float
    finish: str

    @property
    def failed(self) -> bool:
        """Whether we failed it. One that was refused, or that its sender gave up, has not failed."""
        return self.status >= 500 or self.finish in ("deadline", "stage_lost", "session", "closed")
