"""Clients that leave, take nothing, or dawdle, and a server that is stopped: nothing is held, nobody waits for ever."""

import asyncio
import contextlib
import json
import socket
import threading
from http.client import HTTPConnection

import httpx2
import pytest
from websockets.sync.client import connect as websocket

from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.request import Delta, Request
from tests.chat.fake_head import endless, written

CHAT = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


def raw(api, path: str, body: dict) -> socket.socket:
    """A connection on which a request was sent, and nothing is read."""
    host, port = api.url.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=60)
    text = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    opened.sendall(head.encode() + text)
    return opened


def until_recorded(api, count: int = 1) -> list[dict]:
    """The records, once there are so many."""
    tries = threading.Event()
    for _ in range(600):
        if len(records := api.records()) >= count:
            return records
        tries.wait(0.05)
    raise AssertionError(records)


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_requests(serve, head, path, stream):
    head.script = None
    api = serve(head)
    count = 1 if path == "/chat" else 3
    body = {
        "/chat": {"message": "hi"},
        "/v1/chat/completions": {**CHAT, "n": 3},
        "/v1/completions": {"model": "small", "prompt": "hi", "n": 3},
    }[path]
    connection = raw(api, path, {**body, "stream": stream})
    head.asked(count)
    head.say(0, Delta(1, "some"))
    if stream:
        assert b"200 OK" in connection.recv(4096)
    connection.close()
    head.until(lambda: sorted(head.cancelled) == list(range(count)))
    [record] = until_recorded(api)
    assert (record["finish"], record["status"]) == ("cancelled", 200 if stream else 499)
    assert record["prompt_tokens"] == 5


def test_a_client_that_hangs_up_while_the_head_takes_its_request(serve, head):
    """The head answers only after the client has left: the request that it then began is cancelled."""
    head.script = None
    here, go = threading.Event(), threading.Event()
    submit = head.submit

    def slow(request, tell):
        here.set()
        assert go.wait(60)
        return submit(request, tell)

    head.submit = slow
    api = serve(head)
    connection = raw(api, "/chat", {"message": "hi"})
    assert here.wait(60)
    connection.close()
    assert until_recorded(api)[0]["finish"] == "cancelled"
    go.set()
    head.until(lambda: head.cancelled == [0])


def test_a_reader_that_takes_nothing_is_let_go(serve, head):
    head.script = lambda request: (Delta(number, "x" * 50_000) for number in range(1000))
    api = serve(head, send_s=0.3)
    connection = raw(api, "/chat", {"message": "hi", "stream": True})
    [record] = until_recorded(api)
    assert record["finish"] == "cancelled"
    head.until(lambda: head.cancelled == [0])
    connection.close()


def connect(api) -> socket.socket:
    host, port = api.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def ended(connection: socket.socket) -> bytes:
    """What comes until the other end hangs up, which it does."""
    told = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(1 << 20):
            told += more
    return told


@pytest.mark.parametrize("path", ["/chat", "/ws/chat"])
def test_the_connection_of_a_reader_that_takes_nothing_ends(serve, head, path):
    """What was written and not taken does not hold it."""
    head.script = lambda request: (Delta(number, "x" * 50_000) for number in range(1000))
    api = serve(head, send_s=0.3)
    with contextlib.ExitStack() as held:
        if path == "/chat":
            held.enter_context(raw(api, path, {"message": "hi", "stream": True}))
        else:
            url = f"{api.url.replace('http', 'ws')}{path}"
            talking = held.enter_context(websocket(url, compression=None, max_queue=1, close_timeout=0))
            talking.send(json.dumps({"message": "hi"}))
        head.until(lambda: head.cancelled == [0])
        tries = threading.Event()
        for _ in range(600):
            if not (left := api.serving.connections):
                break
            tries.wait(0.05)
        assert left == 0


def test_events_that_wait_do_not_hold_up_the_loop(head):
    """A send that need not wait lets nobody else run, so taking the next event must."""

    async def others_turns() -> int:
        service = Service(head, ApiSettings())
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        running = asyncio.create_task(other())
        async with Exchange(service, "/chat", "chat", stream=True) as exchange:
            head.script = lambda request: written(*"a" * 100)
            await exchange.submit([Request("hi")], "message")
            while exchange.completion_tokens < 100:
                await asyncio.sleep(0.01)
            turns = 0
            while exchange.left:
                await exchange.next()
            told = turns
        running.cancel()
        service.close()
        return told

    assert asyncio.run(others_turns()) >= 100


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: local"])
def test_a_connection_that_asks_for_nothing_is_closed(serve, head, begun):
    with connect(serve(head, body_s=0.3)) as connection:
        connection.sendall(begun)
        assert ended(connection) == b""


def test_a_body_that_nobody_waits_for_does_not_hold_its_connection(serve, head):
    """It was answered already: 415, before a byte of it was read."""
    with connect(serve(head, body_s=0.3)) as connection:
        connection.sendall(b"POST /chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 415"
        with pytest.raises(OSError):
            trickle(connection)


def trickle(connection: socket.socket) -> None:
    for _ in range(1200):
        connection.sendall(b"1\r\nx\r\n")
        threading.Event().wait(0.05)


def test_those_who_ask_nothing_do_not_keep_out_those_who_ask(serve, head, monkeypatch):
    monkeypatch.setattr("smolcluster.chat.backend.serve._MOST_CONNECTIONS", 4)
    head.script = None
    api = serve(head)
    with contextlib.ExitStack() as held:
        asking = held.enter_context(raw(api, "/chat", {"message": "hi", "stream": True}))
        head.asked()
        idle = [held.enter_context(connect(api)) for _ in range(12)]
        assert api.client.get("/health").status_code == 200
        assert ended(idle[0]) == b""
        head.say(0, *written("all the same"))
        assert b"all the same" in ended(asking)


def test_connections_are_used_again_and_again(serve, head):
    """The time of each request is its own."""
    api = serve(head, body_s=0.4)
    host, port = api.url.removeprefix("http://").split(":")
    with contextlib.closing(HTTPConnection(host, int(port), timeout=60)) as connection:
        for _ in range(8):
            connection.request("GET", "/health")
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["state"]) == (200, "ready")
            threading.Event().wait(0.1)
    head.script = None
    with api.client.stream("POST", "/chat", json={"message": "hi", "stream": True}) as answer:
        head.asked()
        threading.Event().wait(1.0)
        head.say(0, *written("late"))
        assert "late" in "".join(answer.iter_text())


def test_a_silent_stream_shows_that_it_lives(serve, head):
    head.script = None
    api = serve(head, ping_s=0.05)
    with api.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": ping"
        head.say(0, *written("a"))
        assert "data: [DONE]" in list(lines)


def test_a_body_that_does_not_come(serve, head):
    api = serve(head, body_s=0.2)
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        opened.sendall(b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        opened.sendall(b"Content-Length: 20\r\n\r\n{")
        assert opened.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_is_too_large(serve, head):
    api = serve(head, body_bytes=1000)
    body = json.dumps({"message": "x" * 1000})
    json_type = {"content-type": "application/json"}
    answer = api.client.post("/chat", content=body, headers=json_type)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    answer = api.client.post("/chat", content=iter([body[:600].encode(), body[600:].encode()]), headers=json_type)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert api.client.post("/chat", json={"message": "x" * 900}).status_code == 200


def test_a_stop_lets_requests_end_and_tells_those_that_do_not(serve, head):
    head.script = lambda request: endless() if request.prompt == "endless" else written("a")
    api = serve(head, leave_s=0.3)
    body = {"model": "small", "prompt": "endless", "stream": True}
    with api.client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        stopping = threading.Thread(target=api.serving.stop)
        stopping.start()
        last = [line for line in lines if line][-1]
        stopping.join(60)
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the server is being stopped"
    head.until(lambda: head.cancelled == [0])
    assert not api.serving.alive
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{api.url}/health")
    assert not head.closed
    assert json.loads(api.note_file.read_text())["state"] == "closed"


def test_a_stop_tells_those_whose_requests_were_being_begun(serve, head):
    """The head takes a request only after all that it had were told of the stop."""
    head.script = None
    here, go = threading.Event(), threading.Event()
    submit = head.submit

    def slow(request, tell):
        here.set()
        assert go.wait(60)
        return submit(request, tell)

    head.submit = slow
    api = serve(head, leave_s=3.0)
    with raw(api, "/v1/chat/completions", CHAT) as connection:
        assert here.wait(60)
        api.app.state.service.leave()
        go.set()
        answer = ended(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"the server is being stopped" in answer
    assert head.cancelled == [0]
