"""The page in headless Chromium: how it looks and feels, to the eye, the ear and the hand. Screenshots: .cache/page."""

from __future__ import annotations

import json
import os

import pytest

from smolcluster.runtime.tabletnote import tablet_link
from tests.chat.fake_head import FakeHead, written
from tests.chat.page import AXE, ENDED, IN_CHROMIUM, LIGHTHOUSE, SHOTS, answers, ask, browser, checked, quiet, says
from tests.chat.test_tablets import APP, PAGE, TABLETS_KEY, waiting

__all__ = ["browser"]
pytestmark = IN_CHROMIUM


@pytest.mark.skipif(
    not AXE.exists() and os.environ.get("CI") != "true", reason="axe-core is not installed: make page-check"
)
def test_nothing_serious_for_those_who_see_or_move_differently(browser, serve):
    tab = browser.tab(serve(says(LIGHTHOUSE)).page_url)
    tab.until("document.querySelector('.stage')")
    checked(tab, "welcome")
    ask(tab, "What is a lighthouse?")
    tab.until(ENDED)
    checked(tab, "chat")
    for panel in ("Settings", "Phone and programs", "Details"):
        tab.click(panel)
        tab.until("document.querySelector('dialog')")
        checked(tab, panel.lower().replace(" ", "-"))
        tab.press("Escape")
        tab.until("!document.querySelector('dialog')")
    tab.size(390, 844)
    tab.click("Chats")
    tab.until("document.querySelector('dialog')")
    tab.screenshot(SHOTS / "chats-390.png")
    quiet(tab)


def test_a_tablet_that_is_waited_for_is_shown_how_to_come_in(browser, serve):
    head = says("well")
    head.now = waiting(PAGE)
    tab = browser.tab(serve(head, tablet_key=TABLETS_KEY).page_url)
    tab.until("document.querySelector('.stage [aria-label=Tablet]')")
    assert "ipad layers 2:4 waited for" in tab.text.replace("\n", " ")
    # The key comes only to where the link is shown.
    requests = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
    assert [url for url in requests if url.endswith("/tablets")] == []
    tab.click("Details")
    tab.until("document.querySelector('dialog .qr svg')")
    link = tablet_link(PAGE, TABLETS_KEY)
    assert tab.js("document.querySelector('dialog .link a').href") == link
    assert tab.js("document.querySelector('dialog section h3').textContent") == "Open this on ipad"
    assert "is waited for 119 s more" in tab.text
    assert tab.js("document.querySelector('dialog tbody tr:last-child').innerText").split() == [
        "ipad", "2:4", "not", "yet", "known", "waited", "for",
    ]  # fmt: skip
    checked(tab, "tablet-waited-for")
    head.now = waiting(APP)
    tab.until("document.querySelector('dialog section h3').textContent === 'Start the app on ipad'")
    assert tab.js("document.querySelector('dialog .link a').getAttribute('href')") == tablet_link(APP, TABLETS_KEY)
    here = waiting(PAGE.model_copy(update={"state": "connected"}), state="ready")
    head.now = here.model_copy(update={"stages": tuple(one.model_copy(update={"alive": True}) for one in here.stages)})
    tab.until("!document.querySelector('dialog .qr')")
    tab.until("document.querySelector('dialog tbody').innerText.includes('connected')")
    assert TABLETS_KEY.hex() not in tab.js("document.documentElement.outerHTML")
    quiet(tab, "503")


def test_by_keyboard_alone(browser, serve):
    head = says("well")
    tab = browser.tab(serve(head).page_url)
    tab.until("document.querySelector('.stage')")
    names = []
    for _ in range(14):
        tab.press("Tab")
        names.append(
            tab.js("(one => one.getAttribute('aria-label') ?? one.innerText ?? one.id)(document.activeElement)")
        )
        if tab.js("document.activeElement.id") == "message":
            break
    assert names[0] == "To the message"
    assert {"New chat", "Settings", "Details"} <= {name.strip() for name in names}
    tab.call("Input.insertText", text="two")
    tab.press("Enter", modifiers=8)
    tab.call("Input.insertText", text="lines")
    tab.press("Enter")
    tab.until(ENDED)
    assert json.dumps("two\nlines")[1:-1] in json.dumps(head.requests[0].prompt)
    # What is read aloud: the whole answer, once.
    assert tab.js("document.querySelector('[role=log]').innerText").strip() == "well"


def test_a_long_answer_streams_without_the_page_slowing(browser, serve):
    """2,000 tokens. Frames are counted, and the longest one is told; what is asserted is that all text is there."""
    words = [f"word{number} " if number % 40 else f"\n\n**Part {number}**\n\n- item " for number in range(2000)]
    head = FakeHead(lambda _: written(*words, reason="stop"))
    tab = browser.tab(serve(head).page_url)
    tab.js("""(() => {
      window.frames_ = []; let last = performance.now();
      const next = now => { frames_.push(now - last); last = now; requestAnimationFrame(next); };
      requestAnimationFrame(next);
    })()""")
    ask(tab, "long")
    tab.until(ENDED)
    times = sorted(tab.js("window.frames_"))
    print(f"{len(times)} frames, longest {times[-1]:.0f} ms, median {times[len(times) // 2]:.0f} ms")
    assert answers(tab)[0].split() == "".join(words).replace("**", "").replace("- ", "").split()
    quiet(tab)
