"""One request on its way: the tokens so far, where the caches stand, and what its owner has been told.

`tokens` is all that is needed to go on elsewhere: after `restart` new caches read them again and it goes on where it
was; what has been told is never sampled again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from smolcluster.infer.messages import Span
from smolcluster.infer.request import Delta, Done, Event, Failed, Finish, Request, Trouble, Usage
from smolcluster.infer.sampling import pick
from smolcluster.infer.text import Writer


class Session:
    """Lives in the engine's thread. `tell` gets every event, in order; after Done or Failed none."""

    def __init__(
        self,
        number: int,
        request: Request,
        prompt: Sequence[int],
        max_tokens: int,
        seed: int,
        deadline_s: float,
        ends: frozenset[int],
        tokenizer: Tokenizer | None,
        tell: Callable[[Event], None],
    ) -> None:
        self.key = number  # what its owner knows it by
        self.number = number  # what the stages know it by: a new one after each restart
        self.tokens = list(prompt)
        self.fed = 0
        self.in_flight = False
        self.opened = False
        self.ended = False
        self.losses = 0  # how often the chain broke while it was in it
        self.began = time.monotonic()
        self.expires = self.began + deadline_s
        self.deadline_s = deadline_s
        self._prompt_length = len(self.tokens)
        self._max_tokens = max_tokens
        self._how = request.sampling
        self._ends = frozenset() if request.ignore_end else ends
        self._generator = torch.Generator().manual_seed(seed)
        self._writer = Writer(tokenizer, request.stop)
        self._first_s: float | None = None
        self._tell = tell

    @property
    def max_len(self) -> int:
        """The most tokens its caches will hold: the last one that is written is never read."""
        return self._prompt_length + self._max_tokens - 1

    @property
    def reading(self) -> bool:
        """Whether more than one token is still to be read."""
        return len(self.tokens) - self.fed > 1

    def next_span(self, chunk: int) -> tuple[Span, list[int]]:
        """What it has for the next step: at most `chunk` tokens."""
        count = min(chunk, len(self.tokens) - self.fed)
        ids = self.tokens[self.fed : self.fed + count]
        return Span(self.number, self.fed, count, self.fed + count == len(self.tokens)), ids

    def restart(self, number: int) -> None:
        """The caches are gone: it begins to read again, under a number that was never used."""
        self.number = number
        self.fed = 0
        self.in_flight = self.opened = False

    def advance(self, logits: Tensor) -> None:
        """(V,) logits after its last token: choose the next one and tell; it may be the end."""
        token = pick(logits, self._how, self._generator)
        if self._first_s is None:
            self._first_s = time.monotonic() - self.began
        if token in self._ends:
            self.finish("stop")
            return
        self.tokens.append(token)
        text = self._writer.feed(token)
        self._tell(Delta(token, text))
        if self._writer.stopped:
            self.finish("stop")
        elif len(self.tokens) - self._prompt_length >= self._max_tokens:
            self.finish("length")

    def finish(self, reason: Finish) -> None:
        """A good end."""
        if not self.ended:
            self.ended = True
            self._tell(Done(reason, self._writer.finish(), self.usage()))

    def fail(self, trouble: Trouble, message: str) -> None:
        """A bad end."""
        if not self.ended:
            self.ended = True
            self._tell(Failed(trouble, message, self.usage()))

    def usage(self) -> Usage:
        """So far."""
        written = len(self.tokens) - self._prompt_length
        return Usage(self._prompt_length, written, self._first_s, time.monotonic() - self.began)
