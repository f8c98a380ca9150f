"""/ws/chat: requests one after the other, cancels, closes, and what it refuses."""

import json
import socket
import threading

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from smolcluster.errors import BusyError
from smolcluster.infer.request import Delta, Failed
from tests.chat.conftest import KEY, PATIENCE_S, enter
from tests.chat.fake_head import usage, written


def talk(api, path: str = "/ws/chat", **options):
    return connect(f"{api.url.replace('http', 'ws')}{path}", open_timeout=PATIENCE_S, compression=None, **options)


def say(talking, **asked) -> None:
    talking.send(json.dumps(asked))


def hear(talking) -> dict:
    """The next event, begin events left out, without its number: test_resuming.py looks at both."""
    while (event := json.loads(talking.recv(PATIENCE_S)))["type"] == "begin":
        pass
    event.pop("number")
    return event


@pytest.mark.parametrize("path", ["/ws/chat", "/api/ws/chat"])
def test_requests_one_after_the_other(api, path):
    with talk(api, path) as talking:
        for _ in range(3):
            say(talking, message="hi")
            assert [hear(talking) for _ in range(3)] == [{"type": "token", "text": text} for text in ("Hel", "lo", "!")]
            done = hear(talking)
            assert (done["type"], done["text"], done["finish_reason"]) == ("done", "Hello!", "stop")
    assert [record["endpoint"] for record in api.records()] == ["/ws/chat"] * 3


def test_requests_sent_at_once_are_answered_in_order(serve, head):
    head.script = lambda request: written(request.prompt.split("\n")[1].removesuffix("<|im_end|>"))
    with talk(serve(head)) as talking:
        for word in ("one", "two", "three"):
            say(talking, messages=[{"role": "user", "content": word}], stream=True)
        for word in ("one", "two", "three"):
            assert hear(talking) == {"type": "token", "text": word}
            assert hear(talking)["text"] == word


def test_a_cancel_ends_the_request_and_not_the_socket(serve, head):
    head.script = None
    with talk(serve(head)) as talking:
        say(talking, type="cancel")  # of nothing
        say(talking, message="hi")
        head.asked()
        head.say(0, Delta(1, "some"))
        assert hear(talking) == {"type": "token", "text": "some"}
        say(talking, type="cancel")
        done = hear(talking)
        assert (done["type"], done["finish_reason"], done["text"]) == ("done", "cancelled", "some")
        assert head.cancelled == [0]
        say(talking, message="again")
        head.asked(2)
        head.say(1, *written("more"))
        assert hear(talking)["text"] == "more"


def test_a_cancel_right_behind_its_request_is_not_lost(serve, head):
    head.script = None
    with talk(serve(head)) as talking:
        say(talking, message="hi")
        say(talking, type="cancel")
        assert hear(talking)["finish_reason"] == "cancelled"
        say(talking, message="again")
        head.asked(2)
        head.say(1, *written("more"))
        assert hear(talking) == {"type": "token", "text": "more"}
        assert hear(talking)["finish_reason"] == "length"
    assert head.cancelled == [0]


@pytest.mark.parametrize("politely", [True, False])
def test_a_socket_that_closes_frees_its_request(serve, head, politely):
    head.script = None
    with talk(serve(head)) as talking:
        say(talking, message="hi")
        head.asked()
        if not politely:
            talking.socket.shutdown(2)
    head.until(lambda: head.cancelled == [0])


def test_a_reader_that_takes_nothing_is_let_go(serve, head):
    head.script = lambda request: (Delta(number, "x" * 50_000) for number in range(1000))
    api = serve(head, send_s=0.3)
    with talk(api, max_queue=1) as talking:
        say(talking, message="hi")
        head.until(lambda: head.cancelled == [0])


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("{", None),
        ("[]", None),
        ("[" * 100_000, None),
        ('{"message": 5}', "message"),
        ('{"message": "\\ud800"}', "message"),
        ('{"message": "a", "temperature": NaN}', "temperature"),
        ('{"type": "cancle"}', None),
        (b"\x00", None),
    ],
)
def test_what_is_wrong_is_told_and_the_socket_stays(api, head, text, param):
    with talk(api) as talking:
        talking.send(text)
        error = hear(talking)
        assert error["type"] == "error"
        assert error["error"]["type"] == "invalid_request_error"
        if param:
            assert error["error"]["param"] == param
        assert head.requests == []
        say(talking, message="hi")
        assert hear(talking) == {"type": "token", "text": "Hel"}


def test_failures_are_events(serve, head):
    api = serve(head)
    with talk(api) as talking:
        head.refuse = BusyError("64 requests wait already")
        say(talking, message="hi")
        assert hear(talking)["error"]["type"] == "rate_limit_error"
        head.refuse = None
        head.script = lambda request: [Delta(1, "He"), Failed("stage_lost", "pi5 is gone", usage(1))]
        say(talking, message="hi")
        assert hear(talking) == {"type": "token", "text": "He"}
        assert hear(talking)["error"]["code"] == "stage_lost"
        head.script = lambda request: written("well")
        say(talking, message="hi")
        assert hear(talking) == {"type": "token", "text": "well"}
    metrics = api.client.get("/metrics").text
    assert 'smolcluster_requests_total{endpoint="/ws/chat",status="429"} 1.0' in metrics
    assert 'smolcluster_requests_total{endpoint="/ws/chat",status="503"} 1.0' in metrics


def test_too_many_on_one_socket(serve, head):
    head.script = None
    with talk(serve(head)) as talking:
        say(talking, message="hi")
        head.asked()
        for _ in range(9):
            say(talking, message="hi")
        assert hear(talking)["error"]["code"] == "queue_full"


def test_a_message_that_is_too_large_closes_the_socket(serve, head):
    with talk(serve(head, body_bytes=1000)) as talking:
        say(talking, message="x" * 2000)
        with pytest.raises(ConnectionClosed) as closed:
            hear(talking)
    assert closed.value.rcvd.code == 1009


def status_of(api, **options) -> int:
    with pytest.raises(InvalidStatus) as refused, talk(api, **options):
        pass
    assert set(json.loads(refused.value.response.body)["error"]) == {"message", "type", "param", "code"}
    return refused.value.response.status_code


def test_pages_of_other_origins_and_other_names_are_refused(api):
    assert status_of(api, origin="http://evil.example") == 403
    assert status_of(api, origin="null") == 403
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as opened:
        with pytest.raises(InvalidStatus) as refused:
            connect("ws://evil.example/ws/chat", sock=opened, open_timeout=PATIENCE_S)
        assert refused.value.response.status_code == 403
    with talk(api, origin=api.url) as talking:
        say(talking, message="hi")
        assert hear(talking)["type"] == "token"


def test_the_key(serve, head):
    api = serve(head, key=KEY)
    assert status_of(api) == 401
    assert status_of(api, additional_headers={"Authorization": "Bearer wrong"}) == 401
    assert status_of(api, path=f"/ws/chat?key={KEY}") == 401
    cookie = enter(api)
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"Cookie": cookie}):
        with talk(api, additional_headers=headers) as talking:
            say(talking, message="hi")
            assert hear(talking)["type"] == "token"
        assert status_of(api, additional_headers=headers, origin="http://evil.example") == 403


def test_a_stop_closes_sockets(serve, head):
    head.script = None
    api = serve(head)
    with talk(api) as talking:
        say(talking, message="hi")
        head.asked()
        stopping = threading.Thread(target=api.serving.stop)
        stopping.start()
        with pytest.raises(ConnectionClosed) as closed:
            hear(talking)
        stopping.join(60)
    assert closed.value.rcvd.code == 1012
    head.until(lambda: head.cancelled == [0])
