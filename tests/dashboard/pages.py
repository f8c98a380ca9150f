"""The dashboard's page in a tab of headless Chromium: served, read and pointed at."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from smolcluster.chat.backend.serve import Serving, bind, urls
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.dashboard.app import create_dashboard
from tests.chat.browser import PATIENCE_S

HEARD = "document.querySelector('.head [role=status]').innerText.trim()"
LIVE = f"{HEARD} === 'live'"
# A chart is drawn when its canvas has something on it: nothing at all makes a small picture.
DRAWN = "[...document.querySelectorAll('.plot canvas')].some(one => one.toDataURL().length > 4000)"
LINES = "[...document.querySelectorAll('.logline')]"


@contextmanager
def dashboard(reading, port: int = 0) -> Iterator[str]:
    """The page's address. Inside it answers; it can be started there again."""
    bound = bind(("127.0.0.1",), {"page": port})
    with Serving(create_dashboard(reading, ApiSettings(urls=urls(bound))), bound, 0.2):
        yield f"{urls(bound)['page']}/"


def port_of(url: str) -> int:
    return int(url.split(":")[2].strip("/"))


def remarks(tab) -> list[str]:
    return tab.js("[...document.querySelectorAll('.remark')].map(one => one.innerText.trim())")


def choose(tab, label: str, value: str) -> None:
    """In the list of that label."""
    tab.js(f"""(box => {{ box.value = {json.dumps(value)}; box.dispatchEvent(new Event('change', {{bubbles: true}})) }})
      ([...document.querySelectorAll('label')].find(one => one.textContent === {json.dumps(label)}).control)""")


def node_states(tab) -> dict[str, str]:
    found = tab.js("[...document.querySelectorAll('.machine')].map(one => [one.querySelector('h3').innerText, "
                   "one.querySelector('.pill').innerText.trim()])")  # fmt: skip
    return dict(found)


def pointed_at(tab, share: float, step: int) -> None:
    """Move over the first chart, at that share of its width, until that step is said to be there."""
    said, until = "", time.monotonic() + PATIENCE_S
    for turn in itertools.count():
        box = tab.js("(one => ({x: one.left, y: one.top, w: one.width, h: one.height}))"
                     "(document.querySelector('.u-over').getBoundingClientRect())")  # fmt: skip
        at = {"x": box["x"] + box["w"] * share, "y": box["y"] + box["h"] / 2 + turn % 2}
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", **at)
        said = tab.js("document.querySelector('.under').innerText")
        if said == f"step {step:,}":
            return
        assert time.monotonic() < until, (said, step)
