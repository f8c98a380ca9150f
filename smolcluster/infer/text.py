"""Text as it may be shown while tokens come: whole characters, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from smolcluster.data.text import TextStream


class StopScanner:
    """Holds back what may become a stop string; the first one that is complete ends the text before itself."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """More text; what of all that is certain. Nothing after a stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, when no more comes."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)


class Writer:
    """Token ids in, text out. Without a tokenizer there is no text, and there are no stop strings."""

    def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str]) -> None:
        self._stream = TextStream(tokenizer) if tokenizer is not None else None
        self._scanner = StopScanner(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self._scanner.stopped

    def feed(self, token: int) -> str:
        """The text that may be shown after this token."""
        return self._scanner.feed(self._stream.feed(token)) if self._stream is not None else ""

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self._stream is None or self.stopped:
            return ""
        return self._scanner.feed(self._stream.finish()) + self._scanner.finish()
