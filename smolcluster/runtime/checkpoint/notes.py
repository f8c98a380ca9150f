"""What ranks tell each other about checkpoints: texts of any length through the run's store, beside the collectives.

The store may be used from any thread, and a wait that runs out there breaks nothing. Collectives could not do this:
their order is the training's.
"""

from __future__ import annotations

import zlib
from datetime import timedelta

from smolcluster.runtime.context import NoteBoard

# The store takes 16 MB at once.
_PART_BYTES = 8 << 20


class Notes:
    """Texts by key, in the store of a run."""

    def __init__(self, board: NoteBoard) -> None:
        self._board = board

    def put(self, key: str, text: str) -> None:
        """Leave a text. PeerError if rank 0 is gone."""
        data = zlib.compress(text.encode())
        parts = [data[start : start + _PART_BYTES] for start in range(0, len(data), _PART_BYTES)]
        for number, part in enumerate(parts):
            self._board.set(f"{key}/{number}", part)
        self._board.set(key, str(len(parts)))  # last: it says that all is there

    def wait(self, keys: list[str], seconds: float) -> None:
        """Wait until all of them are there. DeadlineError if somebody left none in time."""
        self._board.wait(keys, timedelta(seconds=seconds))

    def get(self, key: str) -> str:
        """A text that is there."""
        [count] = self._board.multi_get([key])
        parts = self._board.multi_get([f"{key}/{number}" for number in range(int(count))])
        return zlib.decompress(b"".join(parts)).decode()

    def forget(self, key: str) -> None:
        """Take a text away."""
        [count] = self._board.multi_get([key])
        for name in (key, *(f"{key}/{number}" for number in range(int(count)))):
            self._board.delete_key(name)
