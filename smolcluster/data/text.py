"""Tokens back to text as they come: no piece ends inside a character."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TextStream:
    """Feed token ids, get the text that is complete so far. A character may span several tokens of a byte-level BPE."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._given = ""

    def feed(self, token: int) -> str:
        """The text that this token completes; "" while a character is still open."""
        self._ids.append(token)
        text = self._stream.step(self._tokenizer, token) or ""
        self._given += text
        return text

    def finish(self) -> str:
        """What is left when no more tokens come: a character that stayed incomplete shows as U+FFFD."""
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return whole[len(self._given) :] if whole.startswith(self._given) else ""
