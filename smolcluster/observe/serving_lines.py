"""What is new in how a model is served, as lines for a person. Pure: from notes to text.

What it deliberately does not know: where notes come from, who prints the lines, and the addresses' key.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from urllib.parse import urlsplit

from smolcluster.runtime.onetime import LINK_S
from smolcluster.runtime.runfolder import ServingNote
from smolcluster.spec.values import is_loopback


def address_lines(urls: Mapping[str, str], key: str = "", onetime: str = "", elsewhere: str = "") -> list[str]:
    """Where the API and the page are. With a key: the page's link with a one-time key, its QR code, and the key, which
    is for clients.

    `elsewhere`: the machine they are on, if it is not the reader's: its loopback is said to be its own.
    """
    lines, more = [], []
    for name, url in urls.items():
        link = f"{url}/?key={onetime}" if onetime and name == "page" else url
        own = elsewhere and is_loopback(urlsplit(url).hostname or "")
        lines.append(f"{name:<4}  {link}" + (f"  (on {elsewhere} itself)" if own else ""))
        if link != url:
            more = link_lines(link)[1:]
    if key:
        lines.append(f"key   {key}")
    return lines + more


def link_lines(link: str) -> list[str]:
    """A link with a one-time key, what it is good for, and its QR code where a phone can use it."""
    lines = [link, f"the link lets one browser in, once, within {LINK_S / 60:g} minutes"]
    # A phone has a loopback of its own.
    return lines if is_loopback(urlsplit(link).hostname or "") else lines + code_lines(link)


def code_lines(link: str) -> list[str]:
    """The QR code of a link; nothing without the extra `serve`, which only machines that serve need."""
    try:
        from smolcluster.runtime.qr import qr_lines
    except ImportError:
        return []
    return qr_lines(link)


def layers_text(rank: int, planned: str, note: ServingNote | None) -> str:
    """The layers of a stage: those it has, or had last, where the API tells; else the plan's, and that they are."""
    if note is None or not note.layers:
        return f"layers {planned} as planned"
    return f"layers {note.layers[rank]}" if rank in note.layers else f"no layers (planned: {planned})"


def example_lines(note: ServingNote, needs_key: bool = False) -> list[str]:
    """A first request, to be pasted into a shell: a chat where the model has a template for one, else a text to go on
    from. None before the model's name is known, nor where a key is needed: it does not belong on a command line.
    """
    if needs_key or not note.model or "api" not in note.urls:
        return []
    asked: dict[str, object] = {"model": note.model}
    if note.chat:
        path, asked["messages"] = "chat/completions", [{"role": "user", "content": "Hello"}]
    else:
        path, asked["prompt"] = "completions", "Once upon a time"
    words = ["curl", f"{note.urls['api']}/v1/{path}", "-H", "Content-Type: application/json"]
    return [f"try   {shlex.join([*words, '-d', json.dumps(asked, ensure_ascii=False)])}"]


def counts_line(note: ServingNote) -> str:
    """What was asked and answered so far, and what is under way."""
    parts = [f"{note.requests:,} request{'' if note.requests == 1 else 's'}"]
    if note.failed:
        parts[0] += f" ({note.failed:,} failed)"
    if note.active or note.waiting:
        parts.append(f"{note.active} under way" + (f", {note.waiting} waiting" if note.waiting else ""))
    return "  ".join([*parts, f"{note.tokens:,} tokens", f"{note.tokens_per_s:,.1f} tokens/s"])


def state_line(note: ServingNote, before: ServingNote | None, was_ready: bool) -> str | None:
    """What the state became, and why; None where it did not change."""
    if before is not None and (note.state, note.reason) == (before.state, before.reason):
        return None
    again = note.state == "ready" and was_ready and before is not None and before.state != "ready"
    state = "ready again" if again else note.state
    return f"{state}: {note.reason}" if note.reason else state


class ServingLines:
    """Gives every line once: changes of state at once, counts when they changed, at most every `every_s` seconds."""

    def __init__(self, every_s: float) -> None:
        self.was_ready = False
        self._every_s = every_s
        self._before: ServingNote | None = None
        self._counted: tuple[int, int, int, int] | None = None
        self._counted_at_s = 0.0

    def lines(self, note: ServingNote, now_s: float, last: bool = False) -> list[str]:
        """The lines that a note is worth. `now_s`: seconds of any steady clock. `last`: counts are due in any case."""
        told = state_line(note, self._before, self.was_ready)
        self._before = note
        self.was_ready = self.was_ready or note.state == "ready"
        lines = [told] if told is not None else []
        counts = (note.requests, note.failed, note.active, note.tokens)
        if self._counted is None:
            self._counted, self._counted_at_s = (0, 0, 0, 0), now_s - self._every_s
        if counts != self._counted and (last or now_s - self._counted_at_s >= self._every_s):
            self._counted, self._counted_at_s = counts, now_s
            lines.append(counts_line(note))
        return lines
