"""What the API knows of the model's head, whether it runs in the same process or is reached over a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from pydantic import Field

from smolcluster.infer.request import Event, Request, Strategy
from smolcluster.infer.stream import Stream
from smolcluster.models.dense import Precision
from smolcluster.runtime.tabletnote import TabletNote
from smolcluster.spec.base import Frozen
from smolcluster.spec.modelfile import Decoding


class About(Frozen):
    """The served model; fixed while it is served. `context` and `max_tokens` in tokens.

    `chat_template`: the Jinja text of its tokenizer, None where it only continues texts; `special_tokens` are the ones
    such a template may name (bos_token, eos_token, ...).
    """

    name: str
    source: str
    licence: str
    layers: int = Field(gt=0)
    params: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    context: int = Field(gt=0)
    max_tokens: int = Field(gt=0)
    precision: Precision
    active_strategy: Strategy
    strategies: dict[Strategy, Decoding]
    chat_template: str | None = None
    special_tokens: dict[str, str] = Field(default_factory=dict)


class StageNow(Frozen):
    """A stage at some moment. `alive` False: it cannot be reached, and the other figures are 0.

    `busy_s`: seconds it has computed for `steps` steps since it began. Of a later stage, as the head counts on its own
    links to it: bytes sent and received so far, and how long the way there and back took, None where nobody knows yet.
    `tablet`: what has the layers where it is no computer; such a stage is alive as long as its tablet is connected.
    """

    rank: int
    node: str
    start: int
    stop: int
    alive: bool
    sessions: int = 0
    cache_bytes: int = 0
    steps: int = 0
    busy_s: float = 0.0
    rss_mb: float = 0.0
    bytes_out: int = 0
    bytes_in: int = 0
    rtt_ms: float | None = None
    tablet: Literal["", "native", "browser"] = ""


class Health(Frozen):
    """The truth of now. Only `ready` serves; `reason` says why else, or what may be coming.

    `epoch` grows with every (re-)connection. `active` requests hold caches, `waiting` ones do not yet; `tokens` were
    chosen since the head began. `tablets`: what the ranks that hand over to one say of it; none where the head is not
    reached, and before they say anything.
    """

    state: Literal["starting", "ready", "lost", "closed"]
    reason: str = ""
    epoch: int = 0
    active: int = 0
    waiting: int = 0
    tokens: int = 0
    stages: tuple[StageNow, ...] = ()
    tablets: tuple[TabletNote, ...] = ()


class Head(Protocol):
    """All of it may be called from any thread, and answers or raises within seconds (`reconnect`: within `within_s`).

    PeerLostError: the head cannot be reached, or cannot serve now.
    """

    def about(self) -> About:
        """The model."""
        ...

    def submit(self, request: Request, tell: Callable[[Event], None]) -> Stream:
        """Begin a request; its events go to `tell`, in another thread, perhaps before this returns.

        RequestError: it cannot be served as it is. BusyError: too many wait already. `tell` hears one Done or Failed
        in any case, at the latest some time after the request's deadline.
        """
        ...

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        ...

    def health(self) -> Health:
        """Never raises: a head that is gone is `lost`."""
        ...

    def reconnect(self, within_s: float) -> None:
        """Connect all stages anew, the lost ones too if they came again. PeerError tells who did not come."""
        ...

    def close(self) -> None:
        """Let go of it. Idempotent."""
        ...
