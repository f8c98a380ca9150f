"""The key, the cookie, the names this machine is asked by, and pages of other origins."""

import logging
import time

import pytest
from pydantic import ValidationError

from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.runtime.onetime import make_onetime
from tests.chat.conftest import KEY, enter

BEARER = {"Authorization": f"Bearer {KEY}"}
PATHS = ("/config", "/metrics", "/v1/models", "/v1/models/small", "/openapi.json", "/api/config", "/nothing")


@pytest.fixture
def locked(serve, head):
    return serve(head, key=KEY)


def test_without_the_key_only_the_state_is_told(locked):
    for path in ("/health", "/api/health"):
        answer = locked.client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"state": "ready"})
    assert len(locked.client.get("/health", headers=BEARER).json()["stages"]) == 2
    for path in PATHS:
        answer = locked.client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert locked.client.get(path, headers=BEARER).status_code in (200, 404)
    assert locked.client.post("/chat", json={"message": "hi"}).status_code == 401
    assert locked.client.post("/reconnect").status_code == 401
    page = locked.client.get("/")
    assert page.status_code == 401
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "shown",
    ["Bearer", "Bearer wrong", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", KEY, f"Basic {KEY}", "Bearer \xe9", ""],
)
def test_a_wrong_key(locked, head, shown):
    headers = {"Authorization": shown.encode("latin-1")}
    answer = locked.client.post("/v1/completions", json={"model": "small", "prompt": "a"}, headers=headers)
    assert answer.status_code == 401
    assert head.requests == []


@pytest.mark.parametrize("other", ['prefs={"a": 1}', "a:b[]=1", "x=a b", "k=\xe9", "=", "flag", 'q="'])
def test_cookies_of_other_servers_on_this_machine_do_not_hide_ours(locked, other):
    own = enter(locked)
    locked.client.cookies.clear()
    for cookies in (f"{other}; {own}", f"{own}; {other}"):
        assert locked.client.get("/config", headers={"Cookie": cookies.encode("latin-1")}).status_code == 200
    assert locked.client.get("/config", headers={"Cookie": other.encode("latin-1")}).status_code == 401


def test_where_none_is_needed_a_key_does_not_matter(api):
    assert api.client.get("/", params={"key": KEY}).status_code == 303
    assert api.client.get("/config", headers=BEARER).status_code == 200


def test_no_key_is_logged(locked, caplog):
    caplog.set_level(logging.DEBUG)
    onetime = make_onetime(KEY, time.time())
    for shown in (onetime, onetime, "wrong-but-secret", KEY):
        locked.client.get("/", params={"key": shown})
        locked.client.get("/config", params={"key": shown})
    locked.client.get("/config", headers=BEARER)
    made = locked.client.post("/links", headers=BEARER).json()["url"].partition("key=")[2]
    told = "".join(f"{record.name} {record.getMessage()}\n" for record in caplog.records if "httpx" not in record.name)
    for secret in (KEY, onetime, "wrong-but-secret", made):
        assert secret not in told
    assert KEY not in repr(ApiSettings(key=KEY))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1", "", "[::1", "a@b"]
)
def test_other_names_are_not_answered(api, host):
    """A page whose own name was made to mean 127.0.0.1 has its name in the Host header."""
    answer = api.client.get("/config", headers={"Host": host})
    assert answer.status_code in (400, 403)
    if answer.status_code == 403:
        assert answer.json()["error"]["code"] == "unknown_host"


def test_names_of_this_machine_are_answered(serve, head):
    api = serve(head, names=("mini1.local",))
    for host in (
        "localhost",
        "LOCALHOST:9000",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:80",
        "mini1.local",
        "localhost.",
    ):
        assert api.client.get("/config", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_cannot_ask(api, head):
    body = {"message": "hi"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "", "http://[", "file://"):
        for path in ("/chat", "/reconnect"):
            answer = api.client.post(path, json=body, headers={"Origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_origin")
    assert head.requests == []
    assert head.reconnects == []
    assert api.client.post("/chat", json=body, headers={"Origin": api.url}).status_code == 200
    # A form can send these types without asking first.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"):
        answer = api.client.post("/chat", content=b'{"message": "hi"}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert api.client.post("/chat", content=b'{"message": "hi"}').status_code == 415
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert api.client.post("/chat", content=b'{"message": "hi"}', headers=kind).status_code == 200


def test_nothing_is_shared_with_other_origins(api):
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        api.client.get("/config", headers={"Origin": "http://evil.example"}),
        api.client.options("/chat", headers=preflight),
        api.client.get("/"),
        api.client.get("/nothing"),
        api.client.post("/chat", json={"message": "hi", "stream": True}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        # The page itself has no secret: a browser may keep it, and asks whether it is still the same.
        page = answer.url.path == "/"
        assert answer.headers["cache-control"] == ("no-cache" if page else "no-store")
        assert "server" not in answer.headers


def test_beyond_loopback_there_must_be_a_key():
    with pytest.raises(ValidationError, match="must be a key"):
        ApiSettings(listen=("192.168.50.1",))
    with pytest.raises(ValidationError, match="at least 16"):
        ApiSettings(listen=("192.168.50.1",), key="short")
    assert not ApiSettings(listen=("192.168.50.1", "127.0.0.1"), key=KEY).local
    assert ApiSettings(listen=("::1", "127.0.0.1")).local


def test_beyond_loopback_any_name_is_answered_to_those_with_the_key(serve, head):
    # The network gives names that nobody here knows of; the socket of this test is on loopback all the same.
    api = serve(head, key=KEY, listen=("192.168.50.1",))
    assert api.client.get("/config", headers={**BEARER, "Host": "mini1.fritz.box"}).status_code == 200
    assert api.client.get("/config", headers={"Host": "mini1.fritz.box"}).status_code == 401
