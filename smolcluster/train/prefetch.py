"""The next steps' batches, made while this step computes.

One thread makes them in the order of the steps and keeps a few ready. What a batch is depends on its step alone, so a
run with this and one without it train on the same samples, from whatever step they start.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable

from smolcluster.strategies.base import Batch

# Enough to bridge a moment in which the machine does something else; a batch is small beside a model. They are made
# anew when half of them are gone: threads that take turns at every step cost a small model more than its samples do.
READY = 16
# A batch is some kilobytes: not even a network drive that wakes up needs that long.
PATIENCE_S = 300.0
LEAVE_S = 5.0


class Prefetch:
    """Batches by step. `make(step)` is called on a thread of its own, for steps up to `last`.

    The thread begins with the first step that is asked for. It ends with `close`, or after the last step. What `make`
    raises comes out of the `take` of that step.
    """

    def __init__(self, make: Callable[[int], Batch], last: int, ready: int = READY) -> None:
        self._make = make
        self._last = last
        self._most = ready
        self._changed = threading.Condition()
        self._made: deque[tuple[int, Batch | BaseException]] = deque()
        self._next = 0
        # Grows when another step is asked for than the next one: what was being made meanwhile is for nobody.
        self._course = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def take(self, step: int) -> Batch:
        """The batch of a step; waits until it is made, OSError if that takes for ever.

        The one after the last that was taken is there soonest.
        """
        with self._changed:
            if self._closed:
                raise ValueError("no batch can be had after close")
            if self._thread is None or step != (self._made[0][0] if self._made else self._next):
                self._steer(step)
            if not self._changed.wait_for(lambda: self._made, PATIENCE_S):
                what = f"the samples of step {step} have not been read for {PATIENCE_S:.0f} s"
                raise TimeoutError(errno.ETIMEDOUT, what)
            _, batch = self._made.popleft()
            if len(self._made) <= self._most // 2:
                self._changed.notify_all()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def close(self) -> None:
        """End the thread. Nothing is ready afterwards."""
        with self._changed:
            self._closed = True
            self._made.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(LEAVE_S)  # a disk that hangs must not keep a rank that failed from telling the others

    def _steer(self, step: int) -> None:
        """Go on from another step than the next one."""
        self._made.clear()
        self._next = step
        self._course += 1
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                if len(self._made) >= self._most or self._next > self._last:
                    while not self._closed and (len(self._made) > self._most // 2 or self._next > self._last):
                        self._changed.wait()
                if self._closed:
                    return
                step, course = self._next, self._course
            try:
                made: Batch | BaseException = self._make(step)
            except BaseException as error:  # noqa: BLE001  the trainer raises it, whatever it is
                made = error
            with self._changed:
                if course == self._course and not self._closed:
                    self._made.append((step, made))
                    self._next = step + 1
                    self._changed.notify_all()
