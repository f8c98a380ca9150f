"""What the tests of the page share: a browser, a model that says what a test wants, and how the page is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smolcluster.chat.backend.api import create_app
from smolcluster.chat.backend.serve import Serving, bind, urls
from smolcluster.chat.backend.settings import ApiSettings
from tests.chat.browser import Browser, Tab, chromium
from tests.chat.fake_head import FakeHead, written

IN_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None and os.environ.get("CI") != "true",
        reason="Chromium is not installed; on Debian: sudo apt install chromium",
    ),
]

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / ".cache" / "page"
AXE = ROOT / "smolcluster" / "chat" / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
LIGHTHOUSE = """## Lighthouses

A **lighthouse** is a tower with a `lamp`; see [the docs](https://example.org).

- It warns ships
- It is *old*

| Lamp | Range |
|---|--:|
| oil | 20 km |

```python
def turn(lamp):
    return lamp.turned(by=30)
```
"""
ENDED = "document.querySelector('main .facts') && !document.querySelector('.writing')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        yield browser


@contextmanager
def backend(head, port: int = 0, **changes) -> Iterator[str]:
    """An API on that port, which can be started there again."""
    bound = bind(("127.0.0.1",), {"api": port, "page": port})
    with Serving(create_app(head, ApiSettings(urls=urls(bound), **changes)), bound, 0.2):
        yield urls(bound)["page"]


def says(text: str) -> FakeHead:
    """A model that says it word by word."""
    return FakeHead(lambda _: written(*[f"{word} " for word in text.split(" ")], reason="stop"))


def ask(tab: Tab, text: str) -> None:
    tab.type("Message", text)
    tab.press("Enter")


def answers(tab: Tab) -> list[str]:
    """What the model said, as it is to be read."""
    found = tab.js("[...document.querySelectorAll('.assistant .text')].map(one => one.innerText.trim())")
    assert isinstance(found, list)
    return found


def quiet(tab: Tab, *besides: str) -> None:
    """Nothing was thrown, refused by the policy, or asked of another host."""
    assert tab.events("Runtime.exceptionThrown") == []
    entries = [event["entry"] for event in tab.events("Log.entryAdded")]
    logged = [entry["text"] for entry in entries if entry["level"] in ("warning", "error")]
    assert [text for text in logged if not any(known in text for known in besides)] == []
    asked = {event["request"]["url"] for event in tab.events("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith((tab.js("location.origin"), "about:", "blob:"))} == set()


def checked(tab: Tab, name: str) -> None:
    """Light and dark, desktop and phone: a screenshot of each. Of both themes and widths axe finds nothing serious."""
    assert AXE.exists() or os.environ.get("CI") != "true"
    axe = AXE.read_text(encoding="utf-8") if AXE.exists() else None
    for dark, width, asked in ((False, 390, False), (False, 1280, True), (True, 1280, False), (True, 390, True)):
        tab.dark(dark)
        tab.size(width, 844)
        tab.screenshot(SHOTS / f"{name}-{'dark' if dark else 'light'}-{width}.png")
        assert tab.js("document.documentElement.scrollWidth <= innerWidth"), (name, width)
        if axe is not None and asked:
            tab.js(f"window.axe || {axe}; 0")
            found = tab.js("axe.run().then(({violations}) => JSON.stringify(violations))")
            serious = [one for one in json.loads(found) if one["impact"] in ("serious", "critical")]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious] == [], (name, width)
    tab.size(1280, 844)
