"""Text as it may be shown while tokens come: whole characters, and never a part of a stop string."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter

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


def text_ids(text: str, tokenizer: Tokenizer, literal: Sequence[tuple[int, int]] = ()) -> list[int]:
    """The token ids of a text. In its `literal` parts, half-open and in order, a special token's name is only text.

    A name that must not count is cut in its middle and the halves are encoded apart; a text without one has the ids it
    always has.
    """
    encoded = tokenizer.encode(text, add_special_tokens=False)
    if not literal:
        return encoded.ids
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    cuts = [
        (start + stop) // 2
        for number, (start, stop) in zip(encoded.ids, encoded.offsets, strict=True)
        if number in special and stop - start > 1 and _overlaps(literal, start, stop)
    ]
    if not cuts:
        return encoded.ids
    ids: list[int] = []
    for begin, end in pairwise([0, *cuts, len(text)]):
        first, last = bisect_right(literal, begin, key=itemgetter(1)), bisect_left(literal, end, key=itemgetter(0))
        inside = [(max(start, begin) - begin, min(stop, end) - begin) for start, stop in literal[first:last]]
        ids += text_ids(text[begin:end], tokenizer, inside)
    return ids


def _overlaps(spans: Sequence[tuple[int, int]], start: int, stop: int) -> bool:
    at = bisect_right(spans, start, key=itemgetter(1))  # the first that ends after `start`
    return at < len(spans) and spans[at][0] < stop
