"""Deadlines. Every wait of comm has one; they are monotonic, so a clock that is set back prolongs nothing."""

from __future__ import annotations

import time


class Deadline:
    """A point in time `seconds` from now. Falls due once; make a new one for a new wait."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def moved(self) -> None:
        """Some bytes moved. Changes nothing here; see Patience."""

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self.at


class Patience(Deadline):
    """A deadline for silence: every byte that moves renews it, so a long message on a slow wire is no failure."""

    __slots__ = ()

    def moved(self) -> None:
        """Some bytes moved: the full time is there again."""
        self.at = time.monotonic() + self.seconds
