"""How ranks that only share one of c10d's stores (TCPStore, FileStore, HashStore) find rank 0's listener in it.

A store may outlive a start: torchrun keeps one over its restarts, and a process may initialise several times. Therefore
rank 0 numbers its starts, here rounds, and each other rank notes the last round it took part in and looks for a later
one. A count of each rank's own would not do: a rank that died before it came here would count one less than the others,
and torchrun's own restart counts differ between machines. Nothing but finding each other goes through that store.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, PeerLostError, ProtocolError

_OVER = b"over"


@dataclass(frozen=True)
class Notice:
    """What rank 0 says of a round. `secret` is empty when every rank reads it from a file of its own."""

    hosts: tuple[str, ...]
    port: int
    run_id: str
    generation: int
    encrypted: bool
    secret: bytes = field(default=b"", repr=False)

    def encode(self) -> str:
        """For the store."""
        return json.dumps({**self.__dict__, "secret": self.secret.hex()})

    @classmethod
    def decode(cls, text: bytes) -> Notice:
        """From the store. ProtocolError when it is none of ours."""
        try:
            fields = json.loads(text)
            return cls(
                hosts=tuple(str(host) for host in fields["hosts"]),
                port=int(fields["port"]),
                run_id=str(fields["run_id"]),
                generation=int(fields["generation"]),
                encrypted=bool(fields["encrypted"]),
                secret=bytes.fromhex(fields["secret"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProtocolError(
                "rank 0 left an address in the rendezvous store that this version of smolcluster cannot read. "
                "Fix: the same version on every machine."
            ) from error


class Meeting:
    """One rank's view of the rounds in a store. Its keys begin with `smol/`."""

    def __init__(self, store: dist.Store, rank: int) -> None:
        self._store = dist.PrefixStore("smol", store)
        self._rank = rank

    def publish(self, notice: Notice) -> int:
        """Rank 0, once it listens: begin a round. Its number."""
        with _lost_is_said():
            round_ = self._store.add("rounds", 1)
            self._store.set(_at(round_), notice.encode())
        return int(round_)

    def conclude(self, round_: int) -> None:
        """Rank 0, when all have come or it gave up: take the notice back, and a secret with it."""
        with _lost_is_said():
            self._store.set(_at(round_), _OVER.decode())

    def find(self, deadline: Deadline, after: int = 0) -> tuple[int, Notice]:
        """Wait for a round later than `after` that this rank has not been in. DeadlineError if none begins."""
        round_ = max(self.newest(), self._seen() + 1, after + 1)
        while True:
            text = self._wait(_at(round_), deadline)
            newest = self.newest()
            if text != _OVER and newest == round_:
                return round_, Notice.decode(text)
            round_ = max(newest, round_ + 1)

    def newest(self) -> int:
        """The last round that rank 0 began; 0 before the first."""
        with _lost_is_said():
            return int(self._store.add("rounds", 0))

    def enter(self, round_: int) -> None:
        """This rank has reached rank 0 in that round."""
        with _lost_is_said():
            self._store.add(f"seen/{self._rank}", round_ - self._seen())

    def _seen(self) -> int:
        with _lost_is_said():
            return int(self._store.add(f"seen/{self._rank}", 0))

    def _wait(self, key: str, deadline: Deadline) -> bytes:
        try:
            self._store.wait([key], timedelta(seconds=max(0.001, deadline.left())))
            return self._store.get(key)
        except RuntimeError as error:  # c10d's stores raise that, and no two the same for the same reason
            if deadline.left() > 1.0:
                raise PeerLostError(f"the rendezvous store was lost while waiting for rank 0: {error}") from error
            raise DeadlineError(
                f"rank 0 did not come within {deadline.seconds:g} s. "
                "Fix: look at rank 0's log; it has to initialise the backend smol as well."
            ) from error


@contextlib.contextmanager
def _lost_is_said() -> Iterator[None]:
    """What c10d's stores raise when they are gone, as a PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"the rendezvous store was lost: {error}") from error


def _at(round_: int) -> str:
    return f"at/{round_}"
