"""The page in headless Chromium, with the real backend behind it: what people do, and what goes wrong."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from smolcluster.infer.head import StageNow
from smolcluster.infer.local import LocalHead
from smolcluster.infer.request import Delta
from tests.chat.conftest import KEY, PATIENCE_S
from tests.chat.fake_head import READY, FakeHead, written
from tests.chat.page import (
    ENDED,
    IN_CHROMIUM,
    LIGHTHOUSE,
    SHOTS,
    answers,
    ask,
    backend,
    browser,
    checked,
    quiet,
    says,
)  # fmt: skip
from tests.chat.test_engine import about, real, text_of

__all__ = ["browser"]
pytestmark = IN_CHROMIUM
# The last answer, as it is to be read.
SAID = "[...document.querySelectorAll('.assistant .text')].at(-1).innerText.trim()"
# Has the page's sockets at hand.
SOCKETS = """window.sockets = []; window.WebSocket = class extends WebSocket {
  constructor(url) { super(url); sockets.push(this); }
}"""


@pytest.mark.core
def test_a_chat(browser, serve):
    head = says(LIGHTHOUSE)
    tab = browser.tab(serve(head).page_url)
    tab.until("document.querySelectorAll('.stage').length === 2")
    assert "mini1 layers 0:2" in tab.text.replace("\n", " ")
    assert "Chats are kept in this browser only" in tab.text
    ask(tab, "What is a lighthouse? <b>bold</b>")
    tab.until(ENDED)
    for what, text in (
        ("h4", "Lighthouses"), ("strong", "lighthouse"), ("p code", "lamp"), ("li em", "old"), ("td", "oil"),
        ("pre code", "def turn(lamp):\n    return lamp.turned(by=30)"),
        (".user .text", "What is a lighthouse? <b>bold</b>"),
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


@pytest.mark.core
def test_a_reload_in_mid_answer_goes_on_where_it_was(browser, serve):
    head = FakeHead()
    tab = browser.tab(serve(head, resume_s=60.0).page_url)
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
        quiet(tab, "ERR_CONNECTION_REFUSED", "status of 404", "WebSocket connection")


def test_a_lost_connection_is_found_again_in_mid_answer(browser, serve):
    head = FakeHead()
    tab = browser.tab(serve(head, resume_s=60.0).page_url)
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=SOCKETS)
    tab.reload()
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
    tab.type("Key or link", "not the key of anything")
    tab.click("Enter")
    tab.until("document.querySelector('#wrong').innerText.includes('not the key')")
    checked(tab, "key")
    tab.type("Key or link", KEY)
    tab.press("Enter")
    tab.until("document.querySelector('.stage')")
    ask(tab, "hello")
    tab.until(ENDED)
    assert answers(tab) == ["come in"]
    assert KEY not in tab.js("document.cookie + JSON.stringify(localStorage) + location.href")
    quiet(tab, "status of 401", "WebSocket connection")


@pytest.mark.core
def test_a_link_lets_a_phone_in_once(browser, serve):
    tab = browser.tab(serve(says("from the phone"), key=KEY).page_url)
    tab.type("Key or link", KEY)
    tab.press("Enter")
    tab.until("document.querySelector('.stage')")
    tab.click("Phone and programs")
    tab.click("Make a link")
    tab.until("document.querySelector('.qr svg path').getBoundingClientRect().width > 100")
    checked(tab, "link")
    url = tab.js("document.querySelector('.link').innerText.split(/\\s/)[0]")
    assert KEY not in url
    phone = browser.tab(url, 390, 844)
    phone.until("document.querySelector('.stage') && !location.search")
    ask(phone, "hello")
    phone.press("Tab")
    phone.click("Send")
    phone.until(ENDED)
    assert answers(phone) == ["from the phone"]
    other = browser.tab(url)
    other.until("document.body.innerText.includes('used already')")
    other.click("enter the key")
    other.until("document.querySelector('#key')")
    quiet(tab, "status of 401")
    quiet(phone)


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
    tab.until("document.querySelector('dialog').innerText.includes('Start what is missing again')")
    head.now = READY
    tab.until("!document.querySelector('.stage.lost')")
    tab.until("document.querySelector('.happenings').innerText.includes('pi5 came back')")
    assert "pi5 was lost (pi5 does not answer); pi5 came back: mini1 0:2, pi5 2:4 after" in tab.text
    assert len(head.reconnects) == 1
    quiet(tab, "status of 503")


@pytest.mark.core
def test_a_stage_is_killed_in_mid_answer(browser, serve, stages, models):
    with real(stages, models) as engine:
        killed, submit = threading.Event(), engine.submit

        def slow(request, tell):
            """The engine's thread stands still after the first token until a stage is dead."""

            def held(event):
                tell(event)
                assert killed.wait(PATIENCE_S)

            return submit(request, held)

        engine.submit = slow
        tab = browser.tab(serve(LocalHead(engine, about(), {0: "mini1", 1: "pi5", 2: "mini2"})).page_url)
        tab.until("document.querySelectorAll('.stage').length === 3")
        ask(tab, "the cat")
        tab.until("document.querySelector('.assistant .text')?.innerText.trim()")
        stages.kill(1)
        killed.set()
        tab.until("document.querySelector('.trouble')")
        tab.until("document.querySelector('.stage.lost')")
        assert "Retry when all stages are alive again" in tab.text
        tab.screenshot(SHOTS / "killed.png")


def test_settings_change_what_the_model_says(browser, serve, stages, models):
    """A real model over three processes: one seed is one answer, another seed another one."""
    with real(stages, models) as engine:
        tab = browser.tab(serve(LocalHead(engine, about())).page_url)
        for number, seed in enumerate(("1", "1", "2"), 1):
            tab.click("Settings")
            tab.type("Temperature", "1.5")
            tab.type("Seed", seed)
            tab.press("Escape")
            tab.until("!document.querySelector('dialog')")
            tab.click("New chat")
            ask(tab, "the cat")
            tab.until(ENDED)
            tab.js(f"window.said{number} = {SAID}")
        one, again, other = (tab.js(f"window.said{number}") for number in (1, 2, 3))
        assert one
        assert one == again != other
        # Greedy is the engine's own word.
        tab.click("Settings")
        tab.type("Temperature", "0")
        tab.press("Escape")
        tab.until("!document.querySelector('dialog')")
        tab.click("New chat")
        ask(tab, "the cat")
        tab.until(ENDED)
        assert " ".join(tab.js(SAID).split()) == " ".join(text_of(engine, "the cat").split())
