"""GET /tablets: what it tells of a tablet, to whom, and where its key is and is not."""

import logging
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import segno

from smolcluster.infer.head import Health
from smolcluster.runtime.tabletnote import TabletNote, tablet_key, tablet_link
from tests.chat.conftest import KEY, enter
from tests.chat.fake_head import READY

TABLETS_KEY = tablet_key(b"the run's secret")
BEARER = {"Authorization": f"Bearer {KEY}"}
PAGE = TabletNote(
    time=1.0, run="20261129-1200-inference", tablet="ipad", app="browser", state="waiting",
    address="http://192.168.1.7:8000/tablet", layers="2:4", left_s=118.4,
)  # fmt: skip
APP = PAGE.model_copy(
    update={"app": "native", "address": "172.20.10.3:8000", "left_s": None, "came": True, "reason": "it fell asleep"}
)
WITHOUT_LINK = {"url": None, "qr_svg": None}


def waiting(*notes: TabletNote, state: str = "starting") -> Health:
    """The second stage is a tablet's."""
    stages = (READY.stages[0], READY.stages[1].model_copy(update={"node": "ipad", "tablet": "browser", "alive": False}))
    return READY.model_copy(update={"state": state, "stages": stages, "tablets": notes})


@pytest.fixture
def locked(serve, head):
    head.now = waiting(PAGE)
    return serve(head, key=KEY, tablet_key=TABLETS_KEY)


def told(api, **options) -> dict:
    answer = api.client.get("/tablets", **options)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    [tablet] = answer.json()["tablets"]
    return tablet


def test_who_has_the_key_gets_the_link_of_one_that_is_waited_for(locked, caplog):
    caplog.set_level(logging.DEBUG)
    tablet = told(locked, headers=BEARER)
    code = tablet.pop("qr_svg")
    assert tablet == {
        "node": "ipad", "app": "browser", "layers": "2:4", "state": "waiting", "left_s": 118.4, "came": False,
        "reason": "", "device": "",
        "url": f"http://192.168.1.7:8000/tablet#run=20261129-1200-inference&key={TABLETS_KEY.hex()}",
    }  # fmt: skip
    ElementTree.fromstring(code)
    assert code == segno.make(tablet["url"], micro=False, error="m").svg_inline(
        omitsize=True, border=4, dark="#000", light="#fff"
    )
    # A browser that came in by a link has a cookie.
    assert told(locked, headers={"Cookie": enter(locked)})["url"] == tablet["url"]
    written = [path.read_text() for path in (locked.requests_file, locked.note_file) if path.exists()]
    assert [text for text in (*written, caplog.text) if TABLETS_KEY.hex() in text] == []


@pytest.mark.parametrize("path", ["/tablets", "/api/tablets"])
def test_who_has_no_key_or_comes_by_another_name_gets_nothing(locked, path):
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({**BEARER, "Host": "evil.example"}, 403),
    ):
        answer = locked.client.get(path, headers=headers)
        assert answer.status_code == status
        assert TABLETS_KEY.hex() not in answer.text


def test_an_app_s_link_is_its_own(locked, head):
    head.now = waiting(APP, state="lost")
    tablet = told(locked, headers=BEARER)
    assert tablet["url"] == tablet_link(APP, TABLETS_KEY)
    assert (urlsplit(tablet["url"]).scheme, urlsplit(tablet["url"]).netloc) == ("smolcluster", "172.20.10.3:8000")
    assert (tablet["left_s"], tablet["came"], tablet["reason"]) == (None, True, "it fell asleep")
    assert tablet["qr_svg"].startswith("<svg")


@pytest.mark.parametrize("state", ["loading", "connected"])
def test_one_that_has_come_needs_no_link(locked, head, state):
    head.now = waiting(PAGE.model_copy(update={"state": state, "device": "iPad14,3"}))
    assert told(locked, headers=BEARER).items() >= {"state": state, "device": "iPad14,3", **WITHOUT_LINK}.items()
    assert locked.client.get("/stages", headers=BEARER).json()["stages"][1]["connection"] == state


def test_on_this_machine_alone_there_is_no_code_that_nobody_could_use(serve, head):
    head.now = waiting(PAGE.model_copy(update={"address": "http://127.0.0.1:8000/tablet"}))
    tablet = told(serve(head, tablet_key=TABLETS_KEY))
    assert tablet["url"].startswith("http://127.0.0.1:8000/tablet#run=")
    assert tablet["qr_svg"] is None


def test_without_tablets_there_are_none(api):
    assert api.client.get("/tablets").json() == {"tablets": []}
