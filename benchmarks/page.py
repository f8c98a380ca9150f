"""The chat page in headless Chromium on loopback: how soon it is there, how large it is, and whether it stays smooth.

    python -m benchmarks.page --quick

The real API with a model that says 2,000 words of Markdown, evenly over some seconds. A round opens the page in its own
window, with nothing cached. Chromium draws without a GPU here, on the cores that run the API too.
"""

from __future__ import annotations

import gzip
import re
import statistics
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.chat.backend.api import create_app
from smolcluster.chat.backend.serve import Serving, bind, urls
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.request import Event
from tests.chat.browser import Browser, chromium
from tests.chat.fake_head import FakeHead, written
from tests.chat.page import ENDED, ask

PAGE = Path(__file__).parents[1] / "smolcluster" / "chat" / "page"
TOKENS, TOKENS_PER_S = 2000, 400.0
PAINT_MS, FRAME_MS, SCRIPT_KB = 1000.0, 50.0, 120.0
WATCH_FRAMES = """(() => {
  window.frames_ = []; let last = performance.now();
  const next = now => { frames_.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
})()"""
PAINT = "performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"


def words() -> list[str]:
    """An answer with paragraphs, lists and bold type in it."""
    return [f"word{number} " if number % 40 else f"\n\n**Part {number}**\n\n- item " for number in range(TOKENS)]


def evenly() -> Iterator[Event]:
    """Its tokens, one after the other at their time."""
    pause = threading.Event()
    for event in written(*words(), reason="stop"):
        pause.wait(1 / TOKENS_PER_S)
        yield event


def round_of(browser: Browser) -> tuple[float, list[float]]:
    """Milliseconds to the first contentful paint, and of each frame while the answer comes."""
    bound = bind(("127.0.0.1",), {"api": 0, "page": 0})
    with Serving(create_app(FakeHead(lambda _: evenly()), ApiSettings(urls=urls(bound))), bound, 0.2):
        tab = browser.tab(urls(bound)["page"])
        tab.until(PAINT)
        painted = float(tab.js(PAINT))
        tab.js(WATCH_FRAMES)
        ask(tab, "long")
        tab.until(ENDED)
        return painted, [float(one) for one in tab.js("frames_")]


def script_kb_of(page: str) -> float:
    """KB gzipped of all scripts that a page loads: it names those that its own imports, too."""
    named = re.findall(r'"/(assets/[^"]+\.js)"', (PAGE / page).read_text(encoding="utf-8"))
    return sum(len(gzip.compress((PAGE / name).read_bytes(), 9)) for name in named) / 1000


def main() -> int:
    options = flags_for("page", __doc__, "5 rounds", "15 rounds").parse_args()
    if chromium() is None:
        print("skipped: Chromium is not installed; on Debian: sudo apt install chromium", file=sys.stderr)
        return 0
    script_kb = {page: script_kb_of(f"{page}.html") for page in ("index", "dashboard")}
    with Browser() as browser:
        round_of(browser)  # Chromium's own start is nobody's first paint
        rounds = [round_of(browser) for _ in range(15 if options.full else 5)]
    painted = [paint for paint, _ in rounds]
    longest = [max(frames) for _, frames in rounds]
    middle = [statistics.median(frames) for _, frames in rounds]
    for number, (paint, frames) in enumerate(rounds, 1):
        late = sum(frame > FRAME_MS for frame in frames)
        told = f"median {statistics.median(frames):.0f} ms, longest {max(frames):.0f} ms, {late} above {FRAME_MS:.0f}"
        print(f"round {number}: first paint {paint:.0f} ms; {len(frames)} frames, {told}", flush=True)
    targets = [
        Target.at_most("first paint, ms, the median", [statistics.median(painted)], PAINT_MS),
        Target.at_most("longest frame of an answer, ms, the median", [statistics.median(longest)], FRAME_MS),
        Target.at_most("JavaScript of the chat page, KB gzipped", [script_kb["index"]], SCRIPT_KB),
        Target.at_most("JavaScript of the dashboard, KB gzipped", [script_kb["dashboard"]], SCRIPT_KB),
    ]
    show_targets(Console(), targets)
    figures = {"paint_ms": painted, "longest_frame_ms": longest, "median_frame_ms": middle, "script_kb": script_kb}
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    raise SystemExit(main())
