"""The engine: takes requests from any thread and answers each with a stream of events.

It is the face of three threads' work: the head's (loop.py) computes and decides, the keeper's (keeper.py) connects the
stages, the pipeline's receive. Nothing here waits for more than the head's thread, and that never for a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
from tokenizers import Tokenizer

from smolcluster.comm.config import GroupConfig
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import BusyError, PeerError, PeerLostError, RequestError
from smolcluster.infer.head import Health, StageNow
from smolcluster.infer.keeper import Policy
from smolcluster.infer.layout import Layout, Place, Pong
from smolcluster.infer.loop import CALL_S, Loop, OnLoss, State
from smolcluster.infer.request import Event, Limits, Request, prompt_ids
from smolcluster.infer.session import Session
from smolcluster.infer.stage import StageState
from smolcluster.infer.stream import Stream
from smolcluster.infer.worker import Load

# How long a stage may take to say how it is.
_PONG_S = 1.0


@dataclass(frozen=True)
class Status:
    """What the engine says of itself. `reason`: why it is not ready."""

    state: State
    reason: str
    epoch: int
    active: int
    leaving: int
    waiting: int
    tokens: int


class Engine:
    """Made, it listens for its stages; `start` brings them together. Use as a context manager, or `close` it."""

    def __init__(
        self,
        config: GroupConfig,
        layout: Layout,
        load: Load,
        context: int,
        tokenizer: Tokenizer | None = None,
        ends: frozenset[int] = frozenset(),
        limits: Limits | None = None,
        seed: int = 0,
        max_tokens: int = 256,
        on_loss: OnLoss = "fail",
        policy: Policy | None = None,
    ) -> None:
        """`context` is the most tokens a session may see; `ends` the tokens that end a text.

        `on_loss`: when a stage is lost, requests in flight fail, or wait for the next epoch and go on where they were.
        `policy`: how the keeper brings that about; without one somebody has to call `reconnect`.
        """
        self.context = context
        self.limits = limits or Limits()
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._ends = ends
        self._seed = seed
        self._whole = layout
        self._next_key = 0
        self._loop = Loop(config, layout, load, self.limits, on_loss, policy)
        self._pipeline = self._loop.pipeline

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def mesh(self) -> Mesh:
        """The head's links and listener, for others who are to reach this process."""
        return self._pipeline.mesh

    @property
    def failure(self) -> Exception | None:
        """What ended the head's thread, if it was a bug."""
        return self._loop.failure

    def begin(self) -> None:
        """Let the keeper bring the stages together, in its own time."""
        self._loop.start()

    def start(self, within_s: float) -> None:
        """Wait for every stage. PeerError tells who did not come, and nothing is left behind."""
        self._loop.start()
        try:
            self._connect(within_s, all_of_them=True)
        except BaseException:
            self.close()
            raise

    def submit(self, request: Request, tell: Callable[[Event], None] | None = None) -> Stream:
        """Begin a request. Its events come from the stream, or to `tell`, called in the engine's thread, if given.

        RequestError: it cannot be served as it is. BusyError: too many wait already. PeerLostError: no chain now.
        """
        loop = self._loop
        if loop.state == "starting":
            raise PeerLostError(f"the model cannot be served yet: {loop.reason}")
        prompt = prompt_ids(request, self._tokenizer, self._pipeline.vocabulary, self.context)
        max_tokens = min(request.max_tokens or self.max_tokens, self.context - len(prompt) + 1)
        if not loop.schedule.fits(len(prompt) + max_tokens - 1):
            raise RequestError(
                f"it needs room for {len(prompt) + max_tokens} tokens, the caches have {self.limits.tokens}"
            )
        with loop.lock:
            if why := loop.unable():
                raise PeerLostError(f"the model cannot be served now: {why}")
            if len(loop.sessions) >= self.limits.sessions + self.limits.queue:
                raise BusyError(f"{self.limits.queue} requests wait already; try again later")
            key, self._next_key = self._next_key, self._next_key + 1
            stream = Stream(key, self, tell)
            session = Session(
                key,
                request,
                prompt,
                max_tokens,
                self._seed if request.seed is None else request.seed,
                self.limits.request_s if request.deadline_s is None else request.deadline_s,
                self._ends,
                self._tokenizer,
                stream.put,
            )
            stream.within_s, stream.prompt_tokens = session.deadline_s, len(prompt)
            loop.begin(session)
        return stream

    def cancel(self, key: int) -> None:
        """End a request; its stream says so. Nothing happens if it has ended."""
        self._loop.cancel(key)

    def count(self, text: str) -> int:
        """How many tokens a text is. RequestError where the model has no tokenizer."""
        if self._tokenizer is None:
            raise RequestError("this model has no tokenizer: there are no tokens to count")
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def status(self) -> Status:
        """Now, from any thread."""
        loop = self._loop
        active = len(loop.schedule.active)
        return Status(
            loop.state,
            loop.reason,
            self._pipeline.epoch,
            active,
            len(loop.schedule.leaving),
            max(0, len(loop.sessions) - active),
            loop.tokens,
        )

    def stages(self, within_s: float = 5.0) -> dict[int, Pong]:
        """What each later stage says of itself, asked now; those that do not answer in time are missing."""
        roster, loop = self._pipeline.roster, self._loop
        ranks = {rank for rank in roster.ranks if roster.alive(rank)}
        with loop.ponged:
            loop.pongs.clear()
            roster.ping()
            loop.ponged.wait_for(lambda: ranks <= loop.pongs.keys(), within_s)
            return dict(loop.pongs)

    def head_state(self) -> StageState:
        """The same of the head's own stage."""
        return self._pipeline.own_state()

    def health(self, nodes: Mapping[int, str] | None = None) -> Health:
        """The truth of now; never raises. `nodes` names the machine of each rank.

        Takes a second if a stage does not answer. A rank without layers now has 0:0.
        """
        pongs = self.stages(_PONG_S) if self._pipeline.roster.ranks and self._loop.state != "closed" else {}
        status = self.status()
        own = Pong(**vars(self.head_state()), rss_mb=psutil.Process().memory_info().rss / 1e6)
        now = {place.rank: place for place in self._pipeline.layout.places}
        silent = [rank for rank in now if rank and not self._pipeline.roster.alive(rank)]
        reason = status.reason
        if status.state == "ready" and silent:  # not lost yet, but texts may stand still
            reason = f"rank {', '.join(map(str, silent))} has not answered for a moment"
        return Health(
            state=status.state,
            reason=reason,
            epoch=status.epoch,
            active=status.active,
            waiting=status.waiting,
            tokens=status.tokens,
            stages=tuple(
                self._stage_now(
                    place.rank, now.get(place.rank), own if place.rank == 0 else pongs.get(place.rank), nodes
                )
                for place in self._whole.places
            ),
        )

    def _stage_now(
        self, rank: int, place: Place | None, pong: Pong | None, nodes: Mapping[int, str] | None
    ) -> StageNow:
        alive = rank == 0 or self._pipeline.roster.alive(rank)
        moved = self.mesh.counters_by_peer().get(rank) if alive else None
        trips = [trip for link in self.mesh.links() if link.peer == rank and (trip := link.last_trip_s) is not None]
        return StageNow(
            rank=rank,
            node=(nodes or {}).get(rank, ""),
            start=place.start if place is not None else 0,
            stop=place.stop if place is not None else 0,
            alive=alive,
            bytes_out=moved.bytes_out if moved is not None else 0,
            bytes_in=moved.bytes_in if moved is not None else 0,
            rtt_ms=1000 * min(trips) if alive and trips else None,
            **(pong.model_dump() if alive and pong is not None else {}),
        )

    def reconnect(self, within_s: float) -> None:
        """Begin a new epoch: with all stages, or where there is a policy with those who are there, if they are enough.

        Requests in flight go on, or fail, as `on_loss` says. PeerError tells who did not come.
        """
        self._connect(within_s, all_of_them=False)

    def _connect(self, within_s: float, all_of_them: bool) -> None:
        try:
            self._loop.keeper.connect(within_s, all_of_them).result(within_s + CALL_S)
        except TimeoutError as error:
            if isinstance(error, PeerError):
                raise
            raise PeerLostError(str(error) or f"the stages were not connected within {within_s:g} s") from error

    def close(self) -> None:
        """End every request, the chain and the stages' processes. Idempotent."""
        self._loop.close()
