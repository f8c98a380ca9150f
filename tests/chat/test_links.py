"""Links with a one-time key: each lets one browser in, once, within its time; what the others are told."""

import base64
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import httpx2
import pytest
import segno

from smolcluster.chat.backend.door import Door
from smolcluster.chat.backend.link_routes import reached
from smolcluster.chat.backend.page import PAGE
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.cli import main
from smolcluster.runtime.onetime import LINK_S, make_onetime, read_onetime
from smolcluster.runtime.qr import qr_lines
from tests.chat.asking import refused
from tests.chat.conftest import KEY, PATIENCE_S, enter

BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def locked(serve, head, tmp_path):
    return serve(head, key=KEY, links_file=tmp_path / "links_used")


def fresh() -> str:
    return make_onetime(KEY, time.time())


def come(api, shown: str, **options) -> httpx2.Response:
    """A browser of its own, without cookies."""
    return httpx2.get(f"{api.url}/", params={"key": shown}, timeout=PATIENCE_S, **options)


def told(answer: httpx2.Response) -> str:
    """The sentence of a page that does not let in."""
    assert answer.headers["content-type"].startswith("text/html")
    assert "set-cookie" not in answer.headers
    assert f"python -m smolcluster link http://{answer.url.netloc.decode()}</code>" in answer.text, "how to get one"
    return re.findall("<p>(.*?)</p>", answer.text)[0]


def test_a_link_gives_a_cookie_and_loses_its_key(locked):
    onetime = fresh()
    answer = locked.client.get("/", params={"key": onetime})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} < set(cookie.split("; "))
    assert "Secure" not in cookie, "it would not come back over http"
    assert KEY not in cookie
    assert onetime not in cookie
    # The client keeps cookies.
    for path in ("/", "/config"):
        assert locked.client.get(path).status_code == 200
    assert locked.client.post("/chat", json={"message": "hi"}).status_code == 200
    evil = {"Origin": "http://evil.example"}
    for path in ("/chat", "/links", "/reconnect"):
        assert refused(locked.client.post(path, headers=evil), 403)["code"] == "cross_origin"
    locked.client.cookies.clear()
    assert locked.client.get("/config").status_code == 401
    assert locked.client.get("/config", params={"key": fresh()}).status_code == 401
    for cookie in ("wrong", "", KEY, onetime, "\xe9"):
        assert locked.client.get("/config", headers={"Cookie": f"smolcluster_key={cookie}".encode()}).status_code == 401


def test_wrong_used_and_expired_are_told_apart(locked):
    onetime = fresh()
    assert come(locked, onetime).status_code == 303
    sentences = {}
    for status, shown in ((401, "wrong"), (409, onetime), (410, make_onetime(KEY, time.time() - LINK_S - 1))):
        answer = come(locked, shown)
        assert answer.status_code == status
        sentences[status] = told(answer)
    assert "not one of this server" in sentences[401]
    assert "used already" in sentences[409]
    assert "expired" in sentences[410]
    raw = bytearray(base64.urlsafe_b64decode(fresh()))
    raw[0] ^= 1  # good for longer
    other = base64.urlsafe_b64encode(raw).decode()
    of_another_run = make_onetime(f"{KEY}x", time.time())
    for shown in (other, of_another_run, fresh()[:-1], f"{fresh()}A", f"{fresh()}\n", "\xe9", KEY, "="):
        assert come(locked, shown).status_code == 401
    page = httpx2.get(f"{locked.url}/", timeout=PATIENCE_S)
    assert (page.status_code, page.content) == (401, PAGE["/"].content)
    # Only a browser that opens it uses it up.
    onetime = fresh()
    assert httpx2.head(f"{locked.url}/", params={"key": onetime}, timeout=PATIENCE_S).status_code == 401
    assert come(locked, onetime, headers={"Host": "evil.example"}).status_code == 403
    assert come(locked, onetime).status_code == 303


def test_a_browser_that_is_in_may_open_a_used_link(locked):
    onetime = fresh()
    assert locked.client.get("/", params={"key": onetime}).status_code == 303
    again = locked.client.get("/", params={"key": onetime})
    assert (again.status_code, again.headers["location"]) == (303, "/")
    assert "set-cookie" not in again.headers


def test_of_two_at_once_one_gets_in(locked):
    start = threading.Barrier(8)

    def race(shown: str) -> int:
        start.wait(PATIENCE_S)
        return come(locked, shown).status_code

    for _ in range(3):
        onetime = fresh()
        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(race, [onetime] * 8)) == [303] + [409] * 7


def test_used_links_stay_used_after_a_restart(locked, serve, head, tmp_path, caplog):
    used = [fresh() for _ in range(3)]
    for onetime in used:
        assert come(locked, onetime).status_code == 303
    locked.serving.stop()
    file = tmp_path / "links_used"
    assert not [secret for secret in (KEY, *used) if secret in file.read_text()]
    again = serve(head, key=KEY, links_file=file)
    assert [come(again, onetime).status_code for onetime in used] == [409] * 3
    assert come(again, fresh()).status_code == 303
    file.write_text("what is this\n")
    serve(head, key=KEY, links_file=file)
    assert "cannot be read" in caplog.text
    # A disk that refuses it keeps nobody out.
    assert come(serve(head, key=KEY, links_file=tmp_path), fresh()).status_code == 303
    assert "cannot be written" in caplog.text


def test_what_one_server_has_let_in_is_used_for_another_with_its_key(locked, serve, head, tmp_path):
    other = serve(head, key=KEY, links_file=tmp_path / "links_used")
    first, second = fresh(), fresh()
    assert come(locked, first).status_code == 303
    assert come(other, first).status_code == 409
    assert come(other, second).status_code == 303
    assert come(locked, second).status_code == 409
    # Neither has written over what the other one had noted.
    again = serve(head, key=KEY, links_file=tmp_path / "links_used")
    assert [come(again, onetime).status_code for onetime in (first, second)] == [409, 409]


def test_what_was_used_is_forgotten_when_its_time_is_over(serve, head, tmp_path):
    file = tmp_path / "links_used"
    file.write_text(f"{'0' * 32} {int(time.time()) - 1}\n")
    api = serve(head, key=KEY, links_file=file)
    onetime = fresh()
    assert come(api, onetime).status_code == 303
    found = read_onetime(KEY, onetime)
    assert file.read_text() == f"{found.number} {found.until}\n"


def test_a_link_for_a_phone(locked):
    assert refused(locked.client.post("/links"), 401)["code"] == "invalid_api_key"
    enter(locked)
    for headers in ({}, BEARER):
        made = locked.client.post("/links", headers=headers).json()
        assert set(made) == {"url", "qr_svg", "expires_s"}
        assert made["expires_s"] == LINK_S
        assert made["url"].startswith(f"{locked.url}/?key=")
        code = ElementTree.fromstring(made["qr_svg"])
        assert code.tag == "svg"
        assert code.attrib["viewBox"] == "0 0 45 45", "37 modules a side, and the border"
        assert "style" not in made["qr_svg"], "the page's policy would not have it"
        assert httpx2.get(made["url"], timeout=PATIENCE_S).status_code == 303
        assert httpx2.get(made["url"], timeout=PATIENCE_S).status_code == 409


def test_the_command_makes_one(locked, api, tmp_path, capsys):
    (tmp_path / "api_key").write_text(f"{KEY}\n")
    asked = ["--run", str(tmp_path)]
    assert main(["link", locked.page_url, *asked]) == 0
    url, what = capsys.readouterr().out.splitlines()  # no QR code: no phone reaches loopback
    assert url.startswith(f"{locked.page_url}/?key=")
    assert "one browser in, once, within 60 minutes" in what
    assert come(locked, url.partition("key=")[2]).status_code == 303
    for code, arguments, told in (
        (2, ["192.168.1.20:5050", *asked], "as http://192.168.1.20:5050"),
        (2, [locked.url, "--run", str(tmp_path / "other")], "the API's key cannot be read"),
        (3, [api.url, *asked], "answered 409: this server listens on its own machine alone"),
        (3, ["http://127.0.0.1:1", *asked], "does not answer as a served model does"),
    ):
        assert main(["link", *arguments]) == code
        assert told in capsys.readouterr().err
    (tmp_path / "api_key").write_text(f"{KEY}x\n")
    assert main(["link", locked.url, *asked]) == 2
    assert "has another key" in capsys.readouterr().err


def test_a_terminal_shows_the_same_code():
    text = f"http://192.168.1.20:5050/?key={fresh()}"
    dark = {"█": "00", "▀": "01", "▄": "10", " ": "11"}  # light is painted
    rows = [row for line in qr_lines(text) for row in zip(*(dark[block] for block in line), strict=True)]
    wanted = [[str(module) for module in row] for row in segno.make(text, micro=False, error="m").matrix_iter(border=2)]
    assert [list(row) for row in rows[: len(wanted)]] == wanted
    assert {module for row in rows[len(wanted) :] for module in row} <= {"0"}


def test_where_no_key_is_needed_there_is_nothing_to_link(api):
    error = refused(api.client.post("/links"), 409)
    assert error["code"] == "only_here"
    assert "web_interface.listen" in error["message"]
    assert api.client.get("/", params={"key": "any"}).status_code == 303


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("192.168.1.20:5050", "http://192.168.1.20:5050"),
        ("mini1.fritz.box:8080", "http://mini1.fritz.box:8080"),
        ("127.0.0.1:8080", "http://192.168.1.20:5050"),
        ("localhost:5050", "http://192.168.1.20:5050"),
        ("[::1]:5050", "http://192.168.1.20:5050"),
        ("", "http://192.168.1.20:5050"),
        ("[::1", "http://192.168.1.20:5050"),
        ("a:b", "http://192.168.1.20:5050"),
    ],
)
def test_the_address_is_one_that_others_reach(host, base):
    settings = ApiSettings(listen=("127.0.0.1", "192.168.1.20"), key=KEY, urls={"page": "http://127.0.0.1:5050"})
    assert reached(host, "http", settings) == base


def test_over_tls_the_cookie_is_secure():
    door = Door(ApiSettings(key=KEY))
    assert door.cookie(secure=True) == f"{door.cookie(secure=False)}; Secure"
