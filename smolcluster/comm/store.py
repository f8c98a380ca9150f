"""c10d's Store over the control star: rendezvous for process groups. Every method has a deadline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

from smolcluster.comm.control import Control
from smolcluster.comm.frame import MAX_STORE
from smolcluster.comm.mesh import Mesh
from smolcluster.comm.table import Op
from smolcluster.errors import DeadlineError, ProtocolError

Text = str | bytes
# What a frame of the store may hold, less room for the lengths.
_MOST_BYTES = MAX_STORE - 64 * 1024


class StoreTimeoutError(DeadlineError, dist.DistStoreError):
    """A key did not come. Also a DistStoreError (a RuntimeError), which torch's own barriers expect."""


class SmolStore(dist.Store):
    """Thread-safe; the table lies at rank 0. Carries the `mesh` so that a backend finds its links from its store.

    c10d calls some methods by their C++ names (deleteKey, getNumKeys), Python by the others: both are here.
    """

    def __init__(self, control: Control, mesh: Mesh, timeout_s: float) -> None:
        super().__init__()
        self.control = control
        self.mesh = mesh
        dist.Store.set_timeout(self, timedelta(seconds=timeout_s))

    def _one(self, op: Op, args: Sequence[Text]) -> bytes:
        answer = self._call(op, args)
        if len(answer) != 1:
            raise ProtocolError(f"rank 0 answered {op.name} with {len(answer)} values where one was due")
        return answer[0]

    def _number(self, op: Op, args: Sequence[Text]) -> int:
        answer = self._one(op, args)
        try:
            return int(answer)
        except ValueError as error:
            raise ProtocolError(f"rank 0 answered {op.name} with {answer[:40]!r} where a number was due") from error

    def _call(self, op: Op, args: Sequence[Text], wait: timedelta | None = None) -> list[bytes]:
        seconds = (_timeout_of(self) if wait is None else wait).total_seconds()
        try:
            words = [_bytes(arg) for arg in args]
            if sum(map(len, words)) > _MOST_BYTES:
                raise ValueError(f"the store takes at most {_MOST_BYTES} bytes at once; use a collective")
            return self.control.call(op, words, seconds)
        except DeadlineError as error:
            if self.control.alarm.error is not None:
                raise
            raise StoreTimeoutError(str(error)) from error

    def set(self, key: str, value: Text) -> None:
        """Set a key."""
        self._call(Op.SET, (key, value))

    def get(self, key: str) -> bytes:
        """Wait for the key, then its value."""
        return self._one(Op.GET, (key,))

    def add(self, key: str, value: int) -> int:
        """Add to a number (0 if absent); the sum."""
        return self._number(Op.ADD, (key, str(value)))

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there."""
        self._call(Op.WAIT, keys, timeout)

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        return self._one(Op.CHECK, keys) == b"1"

    def compare_set(self, key: str, expected_value: Text, desired_value: Text) -> bytes:
        """Set a key if it holds (or, absent, is expected to be) what is expected; what it holds now."""
        return self._one(Op.COMPARE_SET, (key, expected_value, desired_value))

    def delete_key(self, key: str) -> bool:
        """Delete a key; whether it was there."""
        return self._one(Op.DELETE, (key,)) == b"1"

    def deleteKey(self, key: str) -> bool:
        """delete_key, as C++ calls it."""
        return self.delete_key(key)

    def num_keys(self) -> int:
        """How many keys there are."""
        return self._number(Op.NUM_KEYS, ())

    def getNumKeys(self) -> int:
        """num_keys, as C++ calls it."""
        return self.num_keys()

    def append(self, key: str, value: Text) -> None:
        """Append to a value."""
        self._call(Op.APPEND, (key, value))

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Wait for all keys, then their values."""
        return self._call(Op.GET, keys)

    def multi_set(self, keys: list[str], values: Sequence[Text]) -> None:
        """Set several keys at once."""
        self._call(Op.MULTI_SET, [item for pair in zip(keys, values, strict=True) for item in pair])

    def list_keys(self) -> list[str]:
        """All keys, sorted."""
        return [key.decode(errors="backslashreplace") for key in self._call(Op.LIST_KEYS, ())]

    def has_extended_api(self) -> bool:
        """append, multi_get and multi_set are here."""
        return True

    def clone(self) -> SmolStore:
        """Itself: replies find their caller, so threads do not serialise."""
        return self


def smol_store_of(store: dist.Store) -> SmolStore | None:
    """The SmolStore under any number of prefixes, if there is one."""
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store if isinstance(store, SmolStore) else None


def _timeout_of(store: dist.Store) -> timedelta:
    # c10d's C++ changes it (set_timeout on a prefix reaches the base class only); its stubs do not know the property.
    timeout: timedelta = store.timeout  # type: ignore[attr-defined]
    return timeout


def _bytes(value: Text) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
