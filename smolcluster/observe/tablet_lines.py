"""How it stands with the tablets of a served model, as lines for a person. Pure: from notes to text.

What it deliberately does not know: where notes come from, who prints the lines, and the tablets' key.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from smolcluster.observe.serving_lines import code_lines
from smolcluster.runtime.tabletnote import TabletNote, tablet_link
from smolcluster.spec.values import is_loopback

# How often it is said again that somebody is waited for.
_AGAIN_S = 30.0


def tablet_link_lines(note: TabletNote, key: bytes) -> list[str]:
    """The link, what it is for, and its QR code where another machine can use it."""
    link = tablet_link(note, key)
    where = "in its browser" if note.app == "browser" else "with its camera; the app takes the key from it"
    lines = [f"{note.tablet}  {link}", f"open that link on {note.tablet} {where}; it is good for this run"]
    return lines if is_loopback(urlsplit(link).hostname or "") else lines + code_lines(link)


class TabletLines:
    """Gives every line once: changes of state at once, a wait again every half a minute."""

    def __init__(self) -> None:
        self._before: dict[str, TabletNote] = {}
        self._said_at_s: dict[str, float] = {}

    def lines(self, note: TabletNote, now_s: float) -> list[str]:
        """The lines that a note is worth. `now_s`: seconds of any steady clock."""
        before = self._before.get(note.tablet)
        same = before is not None and (before.state, before.came) == (note.state, note.came)
        if same and (note.state != "waiting" or now_s - self._said_at_s[note.tablet] < _AGAIN_S):
            return []
        self._before[note.tablet], self._said_at_s[note.tablet] = note, now_s
        return [f"{note.tablet}: {state_text(note)}"]


def state_text(note: TabletNote) -> str:
    """`connected, layers 4:8 (iPad14,3, coreml)`; `waiting for its app at 172.20.10.3:8000, 118 s left: start ...`."""
    if note.state == "connected":
        return f"connected, layers {note.layers} ({note.device}, {note.format})"
    if note.state == "loading":
        return f"has come, and loads layers {note.layers}"
    left = f", {note.left_s:.0f} s left" if note.left_s is not None else ""
    again = " again" if note.came else ""
    if note.app == "native":
        how = f"its app at {note.address}{again}{left}: start it there, and keep it in front"
    else:
        how = f"its browser{again}{left}: open {note.address} there, by the link with the key"
    return f"waiting for {how}" + (f" ({note.reason})" if note.reason else "")
