"""The page of a served model, and the way to it from the chat page."""

from __future__ import annotations

from smolcluster.chat.backend.api import create_app
from smolcluster.chat.backend.serve import Serving, bind, urls
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.dashboard.reading import Reading
from smolcluster.dashboard.routes import dashboard_routes
from tests.chat.conftest import serve
from tests.chat.fake_head import FakeHead
from tests.chat.page import IN_CHROMIUM, browser, checked, quiet
from tests.dashboard.pages import DRAWN, LIVE, dashboard
from tests.dashboard.scripted import Scripted, serving_now
from tests.dashboard.test_served import served_before

__all__ = ["browser", "serve"]
pytestmark = IN_CHROMIUM


def test_a_served_model(browser):
    run = Scripted(kind="serving", run_id="smollm-20261129", serving=serving_now())
    with dashboard(run) as url:
        tab = browser.tab(url)
        tab.until(f"{LIVE} && document.querySelectorAll('.machine').length === 3")
        text = tab.text.replace("\n", " ")
        for part in ("layers 0:12", "21 ms per token", "2 sessions", "Requests 41", "Failed 1", "17.5 tokens/s"):
            assert part in text or part in tab.js("document.querySelector('.board').textContent"), part
        run.serving = serving_now(active=3, ms=25.0)
        run.move(1)
        tab.until(
            "document.body.innerText.includes('25 ms per token') && document.body.innerText.includes('3 sessions')"
        )
        tab.until(DRAWN)
        tab.click("Stop")
        tab.until("document.querySelector('dialog[open]')")
        assert "3 answers are being written and will be cut off." in tab.text
        tab.press("Escape")
        checked(tab, "dashboard-serving")
        quiet(tab)


def test_a_model_that_is_served_no_more(browser, tmp_path):
    """By the real backend: charts of machines and links over time, and what no file keeps is said."""
    with dashboard(Reading(served_before(tmp_path / "served"))) as url:
        tab = browser.tab(f"{url}#view=charts")
        tab.until(f"document.querySelector('.head [role=status]').innerText.trim() === 'over' && {DRAWN}")
        titles = "[...document.querySelectorAll('.chart h3')].map(one => one.innerText.split(' ')[0])"
        tab.until(f"{titles}.includes('Processor')")
        assert tab.js(titles) == ["Stages", "Speed", "Requests", "Memory", "Links", "Round", "Processor"]
        assert tab.text.count("It is drawn while the model is served and this page is open; no file keeps it.") == 3
        for part in ("n0 100 MB", "n2 102 MB", "0 to 1 180 Mbit/s"):
            tab.until(f"document.querySelector('.charts').innerText.replace(/\\s+/g, ' ').includes('{part}')")
        assert not tab.has("Stop")
        checked(tab, "dashboard-served-before")
        quiet(tab)


def test_the_chat_page_leads_to_it(browser, serve):
    """Where the server has a dashboard; else there is nothing to lead to."""
    tab = browser.tab(serve(FakeHead()).page_url)
    tab.click("Details")
    tab.until("document.querySelector('dialog')")
    assert not tab.has("Dashboard")
    run = Scripted()
    bound = bind(("127.0.0.1",), {"api": 0, "page": 0})
    app = create_app(FakeHead(), ApiSettings(urls=urls(bound)), lambda service: dashboard_routes(
        run, service.settings, lambda: service.leaving
    ))  # fmt: skip
    with Serving(app, bound, 0.2):
        tab = browser.tab(urls(bound)["page"])
        tab.click("Details")
        tab.until("[...document.querySelectorAll('dialog a')].some(one => one.innerText === 'Dashboard')")
        tab.click("Dashboard")
        tab.until(f"location.pathname === '/dashboard.html' && {LIVE}")
        quiet(tab)
