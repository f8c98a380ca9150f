"""Asking a node how it does, again and again, without waiting for a slow answer before the next question.

Over SSH every question starts a Python there, which on a busy Raspberry Pi takes longer than a lease bears. What renews
the lease is the question, so questions leave by the clock, and a slow answer only comes late.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
_LEAST_S, _MOST_S = 3.0, 15.0


def pause_s(lease_s: float, answer_s: float) -> float:
    """Seconds from one question to a node elsewhere to the next: several in a lease, and in the time that an answer is
    waited for. Who gives slow machines longer has them asked less often, which costs them less.
    """
    return min(_MOST_S, max(_LEAST_S, min(lease_s, answer_s) / 4))


class NoAnswerError(Exception):
    """The node could not be asked this time. Says why."""


class Asking(Generic[Answer]):
    """Calls `ask` in threads of its own. `ask` gives up by itself in time: NoAnswerError.

    The next question leaves `every_s` after the last one if that is answered, and `latest_s` after it if it is not; at
    most `under_way` are asked at the same time.
    """

    def __init__(self, ask: Callable[[], Answer], every_s: float, latest_s: float, under_way: int) -> None:
        self._ask = ask
        self._every_s = every_s
        self._latest_s = latest_s
        self._most = under_way
        self._answers: queue.SimpleQueue[tuple[int, Answer | NoAnswerError]] = queue.SimpleQueue()
        self._asked = 0
        self._ended = 0
        # Questions are numbered from 1; the number of the last one that was answered, and when the last one left.
        self._newest = 0
        self._left_at = time.monotonic() - every_s

    def wait(self, timeout_s: float) -> Answer | NoAnswerError | None:
        """The next answer, or why there is none; None if nothing came within timeout_s. An outdated one is left out."""
        end = time.monotonic() + timeout_s
        while (now := time.monotonic()) < end:
            if now >= self._due():
                self._begin(now)
            try:
                number, answer = self._answers.get(timeout=max(0.001, min(end, self._due()) - now))
            except queue.Empty:
                continue
            self._ended += 1
            if number > self._newest:
                self._newest = number
                return answer
        return None

    def _due(self) -> float:
        """When the next question leaves."""
        if self._asked - self._ended >= self._most:
            return float("inf")
        return self._left_at + (self._every_s if self._newest == self._asked else self._latest_s)

    def _begin(self, now: float) -> None:
        self._asked += 1
        self._left_at = now
        threading.Thread(target=self._put, args=(self._asked,), name=f"ask-{self._asked}", daemon=True).start()

    def _put(self, number: int) -> None:
        try:
            answer: Answer | NoAnswerError = self._ask()
        except NoAnswerError as error:
            answer = error
        except Exception as error:  # noqa: BLE001  a question without an end would be the last one
            answer = NoAnswerError(f"{type(error).__name__}: {error}")
        self._answers.put((number, answer))
