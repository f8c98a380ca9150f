"""A tablet's browser as a stage: the page in headless Chromium computes layers, and comes back after whatever ends it.

Screenshots: .cache/page.
"""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError
from smolcluster.models.decoder import Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.greeting import tablet_key
from smolcluster.tablet.messages import Code, Failure
from smolcluster.tablet.remote import SessionGoneError
from tests.chat.browser import Browser, PageError
from tests.chat.page import IN_CHROMIUM, SHOTS, browser, checked, quiet
from tests.infer.infer_models import CONTEXT, LAYERS, generate
from tests.tablet.pages import HEADING, READY, cluster, fact, heading
from tests.tablet.tablets import KEY, LONG, inputs

__all__ = ["browser"]
pytestmark = IN_CHROMIUM
PROMPT, NEW = [5, 17, 200, 3], 12
# What Chromium says by itself where it has no WebGPU.
KNOWN = ("No available adapters",)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "exports"


@pytest.fixture(scope="module")
def home(models, tmp_path_factory):
    """A cluster with layers of a small Llama."""
    with cluster(models("llama")[1], tmp_path_factory.mktemp("exports")) as made:
        yield made


@pytest.fixture(scope="module")
def window(browser, home):
    """A window that has been to the page: what comes after it finds the runtime in its cache."""
    tab = browser.tab(home.site.address)
    tab.close()
    return tab.context


@pytest.fixture
def opened(browser, home, window):
    """opened(address) -> a tab with the page, of one window; all are closed at the end."""
    tabs = []

    def open_(address=home.link):
        tabs.append(browser.twin(window, address))
        return tabs[-1]

    yield open_
    for tab in tabs:
        with contextlib.suppress(PageError):  # one that is closed already
            tab.close()
    home.alone()


@pytest.mark.core
@pytest.mark.parametrize(("kind", "dtype"), [("gpt2", "fp32"), ("llama", "fp32"), ("llama", "fp16")])
def test_the_page_computes_what_torch_does(browser, models, out, kind, dtype):
    with cluster(models(kind)[1], out, dtype=dtype) as home:
        tab = browser.tab(home.link)
        ready = home.stage.open()
        assert ready.device.startswith("Chrome on Linux, WASM, ")
        home.same(1, inputs((7, 1, 1, 3, 1)), 1e-4 if dtype == "fp32" else 2e-3)
        home.same(2, inputs((1, 1), seed=2), 1e-4 if dtype == "fp32" else 2e-3)
        tab.until(READY)
        assert fact(tab, "Layers") == "1:3"
        assert fact(tab, "Answers under way") == "2"
        assert fact(tab, "Tokens so far") == "15"
        # The key is nowhere to be seen.
        assert tab.js("location.href") == home.site.address
        assert "key" not in tab.text
        quiet(tab, *KNOWN)


def test_the_last_layers_give_logits(browser, models, out):
    with cluster(models("gpt2")[1], out, (2, 4)) as home:
        browser.tab(home.link)
        home.same(1, inputs((5, 1)))


def test_what_ends_a_session_ends_it_alone(home, opened):
    [piece, token] = inputs((4, 1))
    opened()
    for session in (1, 2, 3):
        home.stage.forward(session, piece, 0, capacity=5)
    with pytest.raises(SessionGoneError, match="position 5 after 4 tokens"):
        home.stage.forward(1, token, 5)
    home.stage.forward(2, token, 4)
    with pytest.raises(SessionGoneError, match="6 tokens, with room for 5"):
        home.stage.forward(2, token, 5)
    home.stage.forget(3)
    with pytest.raises(SessionGoneError):
        home.stage.forward(3, token, 4)
    home.same(3, inputs((4, 1)))
    with pytest.raises(SessionGoneError, match="not open"):
        home.stage.forward(4, piece, 0, capacity=CONTEXT + 1)


@pytest.mark.core
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_text_goes_on_after_a_reload_and_a_cut(browser, models, out, kind):
    """torch, the page, torch: the greedy text of one process, and nothing is downloaded twice."""
    model, folder = models(kind)
    first, last = (load_stage(folder, LayerRange(*part, LAYERS)) for part in ((0, 1), (3, 4)))
    sessions, prefills = itertools.count(1), 0
    with cluster(folder, out) as home:
        tab = browser.tab(home.link)
        home.stage.open()
        first_given = list(home.given)
        assert first_given
        text, ends = list(PROMPT), {4: tab.reload, 8: home.cut}
        while len(text) < len(PROMPT) + NEW:
            session, caches, position = next(sessions), (first.new_cache(CONTEXT), last.new_cache(CONTEXT)), 0
            prefills += 1
            try:
                while len(text) < len(PROMPT) + NEW:
                    ids = torch.tensor(text[position:])
                    hidden = first(ids, [Row(caches[0], len(ids), False)])
                    hidden = home.stage.forward(session, hidden, position)
                    logits = last(hidden, [Row(caches[1], len(ids), True)])
                    position = len(text)
                    text.append(int(logits[-1].argmax()))
                    ends.pop(len(text) - len(PROMPT), lambda: None)()
            except PeerError:
                # SessionGone, or the loss itself; the next prefill waits for the page to come back.
                continue
        assert text[len(PROMPT) :] == generate(model, PROMPT, NEW)
        assert prefills >= 3
        tab.until(READY)
        assert home.given == first_given


def test_a_reload_downloads_nothing_again(browser, models, out):
    with cluster(models("llama")[1], out) as home:
        tab = browser.tab(home.link)
        home.same(1, inputs((3, 1)))
        given = list(home.given)
        assert given
        tab.reload()
        with pytest.raises(PeerError):
            home.stage.forward(1, inputs((1,))[0], 4)
        with pytest.raises(SessionGoneError, match="prefill it again"):
            home.stage.forward(1, inputs((1,))[0], 4)
        home.same(1, inputs((3, 1)))
        assert home.given == given


def test_a_lost_network_comes_back(home, opened):
    tab = opened()
    home.same(1, inputs((3, 1)))
    with tab.offline():
        home.cut()
        tab.until(f"{HEADING} === 'Connection lost'")
        checked(tab, "tablet-lost")
    tab.until(READY.replace("Ready", "Connected"))
    home.same(2, inputs((3, 1)))
    tab.until(READY)
    tab.click("What happened")
    # The second where this machine was so busy that silence was noticed first.
    why = ("The cluster hung up, or the network broke off.", "Nothing was heard of the cluster for ten seconds.")
    assert [reason for reason in why if reason in tab.text], tab.text


def test_the_cluster_is_restarted_at_the_same_address(browser, models, out):
    """The page needs no reload; and no other key while the run is the same."""
    folder = models("llama")[1]
    with cluster(folder, out) as home:
        tab = browser.tab(home.link)
        home.same(1, inputs((3, 1)))
        port = int(home.site.address.removesuffix("/tablet").rpartition(":")[2])
    tab.until(f"{HEADING} === 'Connection lost'")
    with cluster(folder, out, port=port) as home:
        tab.click("Try now")
        home.same(1, inputs((3, 1)))
        assert home.given == []


def test_a_tab_that_is_closed_says_so(home, opened):
    tab = opened()
    channel = home.door.take(Deadline(LONG))
    tab.close()
    assert channel.receive(Deadline(LONG)) == Failure(Code.LEAVING, "the page was closed")
    with pytest.raises(PeerLostError):
        channel.receive(Deadline(LONG))


def test_a_tab_that_is_killed_is_an_error_within_the_deadline(home, opened, monkeypatch):
    tab = opened()
    home.same(1, inputs((3, 1)))
    monkeypatch.setattr(home.stage, "_connect", lambda deadline: home.door.take(Deadline(0.2)))
    tab.crash()
    # It is heard of while somebody waits, or before; nobody comes in its place.
    with pytest.raises(PeerError):
        home.stage.forward(1, inputs((1,))[0], 4)
    with pytest.raises(DeadlineError, match="no tablet has come"):
        home.stage.forward(1, inputs((1,))[0], 0)


def test_a_page_with_a_wrong_secret_gets_nothing(home, opened):
    tab = opened(f"{home.site.address}#key={tablet_key(b'another secret').hex()}")
    tab.until(f"{HEADING} === 'The cluster did not let this device in'")
    assert "did not prove that it knows the key" in tab.text
    checked(tab, "tablet-refused")
    with pytest.raises(DeadlineError):
        home.door.take(Deadline(0))
    tab.type("Address or key", "no key")
    tab.click("Connect")
    tab.until("document.querySelector('[role=alert]').textContent.includes('That is no key')")
    tab.type("Address or key", home.link)
    tab.click("Connect")
    home.same(1, inputs((3, 1)))
    tab.until(READY)
    quiet(tab, *KNOWN)


def test_without_a_key_the_page_asks_for_one(home, opened):
    tab = opened(home.site.address)
    tab.until(f"{HEADING} === 'A key is needed'")
    checked(tab, "tablet-no-key")
    tab.type("Address or key", KEY.hex())
    tab.press("Enter")
    home.same(1, inputs((3, 1)))
    tab.reload()
    tab.until(f"{HEADING} === 'Connected'")  # it was kept for reloads


def test_of_two_tabs_the_newer_counts_and_the_former_can_be_taken_again(home, opened):
    old = opened()
    home.same(1, inputs((3, 1)))
    new = opened()
    old.until(f"{HEADING} === 'Another device has taken over'")
    with pytest.raises(PeerError):
        home.stage.forward(1, inputs((1,))[0], 4)
    home.same(2, inputs((3, 1)))
    new.until(READY)
    assert heading(old) == "Another device has taken over"
    old.click("Use this device")
    new.until(f"{HEADING} === 'Another device has taken over'")
    with pytest.raises(PeerError):
        home.stage.forward(2, inputs((1,))[0], 4)
    home.same(3, inputs((3, 1)))
    old.until(READY)


def test_layers_in_another_format_are_refused_in_plain_words(home, opened, monkeypatch):
    other = home.stage.assign.model_copy(update={"packages": {"coreml": "1f" * 32}})
    monkeypatch.setattr(home.stage, "assign", other)
    tab = opened()
    with pytest.raises(HandshakeError, match="has these layers as coreml; a browser needs onnx"):
        home.stage.open()
    tab.until(f"{HEADING} === 'This device cannot compute these layers'")


def test_what_the_page_shows_at_work(home, opened):
    tab = opened()
    home.same(1, inputs((6, *(1,) * 20)))
    tab.until(f"{READY} && document.querySelector('.figure strong').textContent !== '–'")
    assert fact(tab, "Model") == home.stage.assign.model
    assert fact(tab, "Screen") == "stays on"
    assert fact(tab, "Memory") == "154 KB of layers, 6.7 KB of answers"
    checked(tab, "tablet-ready")
    for width, height in ((820, 1180), (1180, 820)):
        tab.size(width, height)
        tab.screenshot(SHOTS / f"tablet-ready-{width}.png")
        assert tab.js("document.documentElement.scrollWidth <= innerWidth")


def test_threads_where_the_page_may_have_them(home, opened):
    tab = opened(home.site.address)
    tab.call("Emulation.setHardwareConcurrencyOverride", hardwareConcurrency=4)
    tab.go(home.link)  # with the key, and without loading the page anew
    assert home.stage.open().device == "Chrome on Linux, WASM, 2 threads"
    home.same(1, inputs((7, 1, 1)))
    quiet(tab, *KNOWN)


def test_over_plain_http_it_computes_too_and_says_what_is_missing(models, out):
    """In a home network that is no secure context: no threads, no wake lock, no crypto.subtle."""
    with (
        Browser("--host-resolver-rules=MAP mini1.example 127.0.0.1") as browser,
        cluster(models("llama")[1], out) as home,
    ):
        tab = browser.tab(home.link.replace("127.0.0.1", "mini1.example"))
        assert home.stage.open().device == "Chrome on Linux, WASM, 1 thread"
        home.same(1, inputs((7, 1, 1)))
        assert tab.js("isSecureContext") is False
        assert fact(tab, "Screen").startswith("may go off: over http a page cannot keep it on.")
        given = len(home.given)
        tab.reload()
        with pytest.raises(PeerError):
            home.stage.forward(1, inputs((1,))[0], 9)
        home.same(2, inputs((3, 1)))
        assert len(home.given) == given


def test_with_webgpu_where_there_is_one(models, out):
    """One made of software: slow, but the same programs run on it."""
    gpu = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    with Browser(*gpu, without="--disable-gpu") as browser, cluster(models("llama")[1], out) as home:
        tab = browser.tab(home.link)
        if not tab.js("navigator.gpu?.requestAdapter().then(one => one !== null)"):
            pytest.skip("this Chromium has no WebGPU made of software")
        assert home.stage.open().device == "Chrome on Linux, WebGPU"
        home.same(1, inputs((7, 1, 1, 2)))
        home.same(2, inputs((1, 1), seed=2))
        quiet(tab)
