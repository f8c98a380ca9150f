"""The page in headless Chromium, with the real backend behind it. The screenshots go to .cache/page, to be looked at."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from smolcluster.chat.backend.api import create_app
from smolcluster.chat.backend.serve import Serving, bind, urls
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.head import StageNow
from smolcluster.infer.local import LocalHead
from smolcluster.infer.request import Delta, Request
from tests.chat.browser import Browser, Tab, chromium
from tests.chat.conftest import KEY
from tests.chat.fake_head import READY, FakeHead, written
from tests.chat.test_engine import about, real

pytestmark = [
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
    logged = [entry["entry"]["text"] for entry in tab.events("Log.entryAdded")]
    assert [text for text in logged if not any(known in text for known in besides)] == []
    asked = {event["request"]["url"] for event in tab.events("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith((tab.js("location.origin"), "about:", "blob:"))} == set()


def test_a_chat(browser, serve):
    head = says(LIGHTHOUSE)
    tab = browser.tab(serve(head).page_url)
    tab.until("document.querySelectorAll('.stage').length === 2")
    assert "mini1 layers 0:2 5 ms/token" in tab.text.replace("\n", " ")
    assert "Chats are kept in this browser only" in tab.text
    ask(tab, "What is a lighthouse? <b>bold</b>")
    tab.until(ENDED)
    for what, text in (
        ("h4", "Lighthouses"), ("strong", "lighthouse"), ("p code", "lamp"), ("li em", "old"), ("td", "oil"),
        ("pre code", "def turn(lamp):\n    return lamp.turned(by=30)"), (".user .text", "What is a lighthouse? <b>bold</b>"),
    ):  # fmt: skip
        assert tab.js(f"document.querySelector('.message {what}, .message{what}').textContent") == text
    # A second question has the whole conversation before it.
    ask(tab, "And an old one?")
    tab.until(f"{ENDED} && document.querySelectorAll('.facts').length === 2")
    assert head.requests[1].prompt.count("<|im_start|>user") == 2
    assert head.requests[1].prompt.count("<|im_start|>assistant") == 2
    assert tab.js("document.activeElement.id") == "message"
    quiet(tab)


def test_parameters_change_the_request(browser, serve):
    head = says("yes")
    tab = browser.tab(serve(head).page_url)
    ask(tab, "first")
    tab.until(ENDED)
    tab.click("Settings")
    tab.type("Temperature", "0.25")
    tab.type("Top-p", "0.5")
    tab.type("Seed", "7")
    tab.type("Longest answer, in tokens", "twelve")
    tab.until("document.body.innerText.includes('A whole number from')")
    tab.type("Longest answer, in tokens", "12")
    tab.press("Escape")
    tab.until("!document.querySelector('dialog')")
    ask(tab, "second")
    tab.until(f"{ENDED} && document.querySelectorAll('.facts').length === 2")
    before, after = head.requests
    assert (before.sampling.temperature, before.sampling.top_p, before.max_tokens) == (0.7, 0.9, None)
    assert (after.sampling.temperature, after.sampling.top_p, after.max_tokens, after.seed) == (0.25, 0.5, 12, 7)
    tab.reload()
    tab.click("Settings")
    tab.until("document.querySelector('dialog')")
    assert tab.js("[...document.querySelectorAll('dialog input')].map(one => one.value)") == [
        "12",
        "0.25",
        "0.5",
        "",
        "7",
    ]
    tab.js("(box => { box.value = 'greedy'; box.dispatchEvent(new Event('change', {bubbles: true})) })"
           "(document.querySelector('dialog select'))")  # fmt: skip
    tab.until("document.body.innerText.includes('This strategy does not use it.')")
    tab.press("Escape")
    ask(tab, "third")
    head.asked(3)
    assert head.requests[2].sampling.temperature == 0.0
    quiet(tab)


def test_stop_retry_and_another_wording(browser, serve):
    head = FakeHead()
    tab = browser.tab(serve(head).page_url)
    ask(tab, "count")
    head.asked(1)
    head.say(0, Delta(1, "one "), Delta(2, "two "))
    tab.until("document.querySelector('.assistant').innerText.includes('one two')")
    tab.click("Stop")
    head.until(lambda: head.cancelled == [0])
    tab.until(f"{ENDED} && document.querySelector('.facts').innerText.includes('stopped')")
    assert answers(tab) == ["one two"]
    tab.click("Retry")
    head.asked(2)
    assert "one two" not in head.requests[1].prompt
    head.say(1, *written("three"))
    tab.until(ENDED)
    assert answers(tab) == ["three"]
    tab.click("Edit")
    tab.until("document.activeElement.value === 'count'")
    ask(tab, "count on")
    head.asked(3)
    assert "count on" in head.requests[2].prompt
    assert "three" not in head.requests[2].prompt
    head.say(2, *written("four"))
    tab.until(ENDED)
    assert answers(tab) == ["four"]
    quiet(tab)


def test_a_reload_in_mid_answer_goes_on_where_it_was(browser, serve):
    head = FakeHead()
    tab = browser.tab(serve(head).page_url)
    ask(tab, "begin")
    head.asked(1)
    head.say(0, Delta(1, "once "))
    tab.until("document.querySelector('.assistant').innerText.includes('once')")
    tab.reload()
    tab.until("document.querySelector('.assistant').innerText.includes('once')")
    head.say(0, Delta(2, "upon "), *written("a time"))
    tab.until(ENDED)
    assert answers(tab) == ["once upon a time"]
    assert len(head.requests) == 1
    assert head.cancelled == []
    tab.reload()
    tab.until("document.querySelector('.assistant')")
    assert answers(tab) == ["once upon a time"]
    quiet(tab)


def test_two_sessions_at_once(browser, serve):
    head = FakeHead()
    tab = browser.tab(serve(head).page_url)
    ask(tab, "red")
    head.asked(1)
    tab.click("New chat")
    tab.until("document.querySelector('.welcome')")
    ask(tab, "blue")
    head.asked(2)
    head.say(1, *written("sky"))
    tab.until(ENDED)
    assert answers(tab) == ["sky"]
    head.say(0, *written("rose"))
    tab.until("!document.querySelector('.choose .dot')")
    tab.click("red")
    tab.until("document.querySelector('.assistant').innerText.includes('rose')")
    assert answers(tab) == ["rose"]
    # Named by a person, deleted, and taken back.
    tab.click("More: red")
    tab.click("Rename")
    tab.until("document.querySelector('.chat input')")
    tab.call("Input.insertText", text="Roses")
    tab.press("Enter")
    tab.click("More: Roses")
    tab.click("Delete")
    tab.until("document.body.innerText.includes('was deleted')")
    assert not tab.has("Roses")
    tab.click("Undo")
    tab.until("[...document.querySelectorAll('.choose')].some(one => one.innerText === 'Roses')")
    # A second tab of the same browser has them too.
    twin = browser.twin(tab.context, tab.js("location.href"))
    twin.until("document.querySelectorAll('.choose').length === 2")
    quiet(tab)
    quiet(twin)


def test_the_backend_is_started_again(browser):
    head, again = FakeHead(), says("here again")
    with ExitStack() as held:
        url = held.enter_context(backend(head))
        tab = browser.tab(url)
        ask(tab, "hello")
        head.asked(1)
        head.say(0, Delta(1, "half "))
        tab.until("document.querySelector('.assistant').innerText.includes('half')")
    tab.until("document.querySelector('.strip').innerText.includes('cannot be reached')")
    with backend(again, int(url.rpartition(":")[2])):
        # What it said is kept, and what was lost is told with what to do.
        tab.until("document.querySelector('.trouble')")
        assert answers(tab) == ["half"]
        tab.until("!document.querySelector('.strip.bad')")
        tab.click("Retry")
        tab.until(ENDED)
        assert answers(tab) == ["here again"]
        tab.click("Details")
        tab.until("document.querySelector('.happenings')")
        assert "The server is there again" in tab.text
        quiet(tab, "ERR_CONNECTION_REFUSED", "status of 404", "WebSocket connection")


def test_a_lost_connection_is_found_again_in_mid_answer(browser, serve):
    head = FakeHead()
    api = serve(head)
    tab = browser.tab(api.page_url)
    ask(tab, "hello")
    head.asked(1)
    head.say(0, Delta(1, "one "))
    tab.until("document.querySelector('.assistant').innerText.includes('one')")
    # As when a phone changes its network: the socket dies, and for a while there is none to be had.
    with tab.offline():
        tab.js("window.sockets.forEach(one => one.close())")
        tab.until("document.querySelector('.writing').innerText.includes('connection was lost')")
        head.say(0, Delta(2, "two "))
    head.say(0, *written("three"))
    tab.until(ENDED)
    assert answers(tab) == ["one two three"]
    assert len(head.requests) == 1
    quiet(tab, "ERR_INTERNET_DISCONNECTED")


def test_a_wrong_key_and_the_right_one(browser, serve):
    tab = browser.tab(serve(says("come in"), key=KEY).page_url)
    tab.type("Key", "not the key of anything")
    tab.click("Enter")
    tab.until("document.querySelector('#wrong').innerText.includes('not the key')")
    checked(tab, "key")
    tab.type("Key", KEY)
    tab.press("Enter")
    tab.until("document.querySelector('.stage')")
    ask(tab, "hello")
    tab.until(ENDED)
    assert answers(tab) == ["come in"]
    assert KEY not in tab.js("document.cookie + JSON.stringify(localStorage) + location.href")
    quiet(tab, "status of 401", "WebSocket connection")


def test_a_stage_is_lost_and_comes_again(browser, serve):
    head = says("well")
    tab = browser.tab(serve(head).page_url)
    tab.until("document.querySelectorAll('.stage').length === 2")
    lost = StageNow(rank=1, node="pi5", start=2, stop=4, alive=False)
    head.now = READY.model_copy(
        update={"state": "lost", "reason": "pi5 does not answer", "stages": (READY.stages[0], lost)}
    )
    tab.until("document.querySelector('.stage.lost')")
    assert "pi5 does not answer" in tab.text
    tab.screenshot(SHOTS / "lost.png")
    tab.click("Details")
    tab.click("Reconnect")
    head.until(lambda: True)
    head.now = READY
    tab.until("!document.querySelector('.stage.lost')")
    assert "pi5 (layers 2:4) was lost" in tab.text
    assert "pi5 (layers 2:4) came again" in tab.text
    assert len(head.reconnects) == 1
    quiet(tab, "status of 503")


def test_a_stage_is_killed_in_mid_answer(browser, serve, stages, models):
    with real(stages, models) as engine:
        head, frozen = LocalHead(engine, about(max_tokens=40)), threading.Event()
        submit = engine.submit

        def held(request: Request, tell=None, **more):
            seen = []

            def listen(event) -> None:
                seen.append(event)
                if len(seen) == 3:
                    stages.freeze(1)
                    frozen.set()
                tell(event)

            return submit(request, listen, **more)

        engine.submit = held
        tab = browser.tab(serve(head).page_url)
        ask(tab, "the cat")
        assert frozen.wait(60)
        tab.until("document.querySelector('.assistant .text').innerText.trim() !== ''")
        stages.kill(1)
        tab.until("document.querySelector('.trouble')")
        tab.until("document.querySelector('.stage.lost')")
        assert "Retry when all stages are alive again" in tab.text
        tab.screenshot(SHOTS / "killed.png")


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


def checked(tab: Tab, name: str) -> None:
    """Light and dark, desktop and phone: a screenshot of each, and nothing serious of axe's in any."""
    axe = AXE.read_text(encoding="utf-8") if AXE.exists() else None
    for theme in ("light", "dark"):
        tab.dark(theme == "dark")
        for width in (1280, 390):
            tab.size(width, 844)
            tab.screenshot(SHOTS / f"{name}-{theme}-{width}.png")
            assert tab.js("document.documentElement.scrollWidth <= innerWidth")
            if axe is not None:
                tab.js(f"{axe}; 0")
                found = tab.js("axe.run().then(({violations}) => violations.map(one => "
                               "[one.impact, one.id, one.nodes.map(node => node.html.slice(0, 200))]))")  # fmt: skip
                assert [one for one in found if one[0] in ("serious", "critical")] == [], (name, theme, width)
    tab.size(1280, 844)


@pytest.mark.skipif(
    not AXE.exists() and os.environ.get("CI") != "true", reason="axe-core is not installed: make page-deps"
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
