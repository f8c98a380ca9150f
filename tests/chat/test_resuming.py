"""Answers taken up again after a lost connection: the same events as without the loss, for as long as they are kept."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice

import pytest
from websockets.sync.client import connect

from smolcluster.chat.backend.encoders import ChatEvents
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.refusals import ApiError
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.request import Delta, Failed, Request
from tests.chat.asking import events, refused
from tests.chat.conftest import KEY, PATIENCE_S
from tests.chat.fake_head import FakeHead, usage, written

HI = {"message": "hi", "stream": True}
PIECES = ("The ", "quick ", "", "brown ", "fox.")
# begin, the pieces that have text, what was held back, done
COUNT = 1 + 4 + 1 + 1


def scripted() -> list:
    return written(*PIECES, reason="stop", rest="!")


@pytest.fixture
def patient(serve, head):
    """An API that waits for those who left, and a head that says only what the test wants."""
    head.script = None
    return serve(head, resume_s=PATIENCE_S)


def talk(api):
    return connect(f"{api.url.replace('http', 'ws')}/ws/chat", open_timeout=PATIENCE_S, compression=None)


def hear(talking) -> dict:
    return json.loads(talking.recv(PATIENCE_S))


def heard(answer) -> Iterator[dict]:
    """The events of an open stream, as they come."""
    return (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: "))


def first(answer, count: int) -> list[dict]:
    """The first ones. The connection is lost when the stream is left."""
    return list(islice(heard(answer), count))


def events_of(api, answer: str, **asked) -> list[dict]:
    return events(api.client.get(f"/answers/{answer}/events", **asked))


@pytest.mark.parametrize("way", ["header", "query", "socket"])
@pytest.mark.parametrize("cut", range(1, COUNT + 1))
def test_cut_anywhere_it_is_the_same_answer(patient, head, cut, way):
    said = scripted()
    at_cut = min(cut - 1, 2) if cut <= 3 else cut  # model's events until as many of ours are out; one is empty
    with patient.client.stream("POST", "/chat", json=HI) as answer:
        head.asked()
        head.say(0, *said[:at_cut])
        before = first(answer, cut)
    head.say(0, *said[at_cut:])
    number, name = before[-1]["number"], before[0]["id"]
    if way == "socket":
        with talk(patient) as talking:
            talking.send(json.dumps({"resume": name, "after": number}))
            after = [hear(talking) for _ in range(COUNT - cut)]
    elif cut == COUNT:
        assert patient.client.get(f"/answers/{name}/events", params={"after": number}).status_code == 204
        after = []
    else:
        how = {"headers": {"Last-Event-ID": str(number)}} if way == "header" else {"params": {"after": number}}
        after = events_of(patient, name, **how)
    whole = [*before, *after]
    assert [event["number"] for event in whole] == list(range(COUNT))
    assert [event["text"] for event in whole if event["type"] == "token"] == ["The ", "quick ", "brown ", "fox.", "!"]
    assert (whole[-1]["text"], whole[-1]["finish_reason"]) == ("The quick brown fox.!", "stop")
    assert whole == events_of(patient, name)
    assert head.cancelled == []
    [record] = patient.records()
    assert (record["finish"], record["completion_tokens"], record["status"]) == ("stop", len(PIECES), 200)


def test_a_socket_that_is_lost_is_taken_up_by_another(patient, head):
    with talk(patient) as talking:
        talking.send('{"message": "hi"}')
        head.asked()
        head.say(0, Delta(1, "a"))
        begin, token = hear(talking), hear(talking)
        talking.socket.shutdown(2)
    with talk(patient) as talking:
        talking.send(json.dumps({"resume": begin["id"], "after": token["number"]}))
        head.say(0, *written("b"))
        assert [(event["number"], event["text"]) for event in (hear(talking), hear(talking))] == [(2, "b"), (3, "ab")]
        talking.send(json.dumps({"resume": begin["id"]}))
        assert [hear(talking)["type"] for _ in range(4)] == ["begin", "token", "token", "done"]
        talking.send('{"message": "hi"}')
        assert hear(talking)["id"] != begin["id"]
    assert head.cancelled == []


def test_two_listeners_hear_the_same(patient, head):
    with patient.client.stream("POST", "/chat", json=HI) as one:
        head.asked()
        mine = heard(one)
        begin = next(mine)
        with talk(patient) as other:
            other.send(json.dumps({"resume": begin["id"]}))
            assert hear(other) == begin
            head.say(0, *scripted())
            assert list(mine) == [hear(other) for _ in range(COUNT - 1)]


def test_a_resumed_answer_is_stopped_by_a_cancel(patient, head):
    with patient.client.stream("POST", "/chat", json=HI) as answer:
        head.asked()
        [begin] = first(answer, 1)
    with talk(patient) as talking:
        talking.send(json.dumps({"resume": begin["id"]}))
        assert hear(talking) == begin
        talking.send('{"type": "cancel"}')
        assert hear(talking)["finish_reason"] == "cancelled"


def test_stopped_on_purpose(patient, head):
    with patient.client.stream("POST", "/chat", json=HI) as answer:
        head.asked()
        head.say(0, Delta(1, "some"))
        told = heard(answer)
        begin, _ = next(told), next(told)
        for _ in range(2):  # again: it has ended, and stays as it is
            assert patient.client.delete(f"/answers/{begin['id']}").status_code == 204
            head.until(lambda: head.cancelled == [0])
        [done] = told
    assert done["finish_reason"] == "cancelled"
    assert patient.client.delete(f"/answers/{begin['id']}").status_code == 204
    assert head.cancelled == [0]
    assert refused(patient.client.delete("/answers/chat-other"), 404)["code"] == "answer_not_found"


def test_nobody_came_back(serve, head):
    head.script = None
    api = serve(head, resume_s=0.2)
    with api.client.stream("POST", "/chat", json=HI) as answer:
        head.asked()
        head.say(0, Delta(1, "some"))
        begin, _ = first(answer, 2)
    head.until(lambda: head.cancelled == [0])
    *_, done = events_of(api, begin["id"])
    assert (done["finish_reason"], done["text"]) == ("cancelled", "some")
    assert api.records()[0]["finish"] == "cancelled"


def test_a_failure_is_kept_too(patient, head):
    head.script = lambda request: [Delta(1, "He"), Failed("stage_lost", "pi5 is gone", usage(1))]
    told = events(patient.client.post("/chat", json=HI))
    assert told[-1]["error"]["code"] == "stage_lost"
    assert events_of(patient, told[0]["id"], params={"after": 0}) == told[1:]


def test_what_cannot_be_taken_up(serve, head):
    api = serve(head, kept_s=0.0)
    gone = events(api.client.post("/chat", json=HI))[0]["id"]
    # Kept for no time at all, and as after a restart: it is not here.
    for name in (gone, "chat-made-up", "x" * 100):
        error = refused(api.client.get(f"/answers/{name}/events"), 404)
        assert error["code"] == "answer_not_found"
        assert "send the message again" in error["message"]
        with talk(api) as talking:
            talking.send(json.dumps({"resume": name}))
            assert hear(talking)["error"] == error
    assert refused(api.client.get(f"/answers/{'x' * 101}/events"), 400)
    api = serve(head)
    kept = events(api.client.post("/chat", json=HI))
    assert "number 4" in refused(api.client.get(f"/answers/{kept[0]['id']}/events?after=5"), 400)["message"]
    for after in ("-2", "x", "1e3"):
        refused(api.client.get(f"/answers/{kept[0]['id']}/events?after={after}"), 400)
    for after in ("-1", "x", "9" * 5000):
        answer = api.client.get(f"/answers/{kept[0]['id']}/events", headers={"Last-Event-ID": after})
        assert refused(answer, 400)["param"] == "last-event-id"
    with talk(api) as talking:
        for asked in ({"resume": 5}, {"resume": kept[0]["id"], "after": 5}, {"resume": "x", "message": "y"}):
            talking.send(json.dumps(asked))
            assert hear(talking)["error"]["type"] == "invalid_request_error"


def test_the_door_is_the_same(serve, head):
    api = serve(head, key=KEY)
    bearer = {"Authorization": f"Bearer {KEY}"}
    told = events(api.client.post("/chat", json=HI, headers=bearer))
    url = f"/answers/{told[0]['id']}"
    assert api.client.get(f"{url}/events").status_code == 401
    assert api.client.delete(url).status_code == 401
    evil = {**bearer, "Origin": "http://evil.example"}
    assert refused(api.client.delete(url, headers=evil), 403)["code"] == "cross_origin"
    for prefix in ("", "/api"):
        assert events(api.client.get(f"{prefix}{url}/events", headers=bearer)) == told


def test_only_so_many_are_kept(serve, head):
    api = serve(head, kept_answers=2)
    names = [events(api.client.post("/chat", json=HI))[0]["id"] for _ in range(4)]
    found = [api.client.get(f"/answers/{name}/events").status_code for name in names]
    assert found == [404, 404, 200, 200]


def test_only_so_many_bytes_are_kept(serve, head):
    head.script = lambda request: written("x" * 400)
    api = serve(head, kept_bytes=2500)
    kept = api.app.state.service.kept
    names = []
    for _ in range(4):
        names.append(events(api.client.post("/chat", json=HI))[0]["id"])
        assert kept.bytes <= 2500
    found = [api.client.get(f"/answers/{name}/events").status_code for name in names]
    assert found[0] == 404
    assert found[-1] == 200
    assert kept.bytes == sum(
        len(json.dumps(event, separators=(",", ":")))
        for name, status in zip(names, found, strict=True)
        if status == 200
        for event in events_of(api, name)
    )


def test_one_that_is_too_long_loses_its_beginning(serve, head):
    head.script = None
    api = serve(head, kept_bytes=4096, resume_s=PATIENCE_S)
    with api.client.stream("POST", "/chat", json=HI) as answer:
        head.asked()
        [begin] = first(answer, 1)
        head.say(0, *(Delta(number, "x" * 100) for number in range(100)))
        url = f"/answers/{begin['id']}/events"
        kept = api.app.state.service.kept.find(begin["id"])
        tries = threading.Event()
        for _ in range(6000):
            if kept.next == 101:
                break
            tries.wait(0.01)
        error = refused(api.client.get(url), 410)
        assert error["code"] == "events_gone"
        assert f"after={kept.first - 1}" in error["message"]
        head.say(0, *written())
    # The whole text is in the done event, which is too long for this little room, and nothing else is left with it.
    assert api.app.state.service.kept.bytes <= 4096


def test_who_leaves_as_an_event_comes_has_left():
    """Both in one turn of the loop: the cancel of a listener must not be lost over the event."""

    async def left() -> bool:
        head = FakeHead()
        service = Service(head, ApiSettings())
        async with AsyncExitStack() as held:
            exchange = await held.enter_async_context(Exchange(service, "/chat", "chat", stream=True))
            await exchange.submit([Request("hi")], "message")
            answer = service.kept.keep(exchange, ChatEvents(exchange, "small"), held.pop_all())

        async def listen() -> None:
            async for _ in answer.events(0, 60.0):
                pass

        listening = asyncio.create_task(listen())
        while answer.next < 1:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        answer._put(["{}"])
        await asyncio.sleep(0)  # the event was told; who waits for it has not taken it yet
        listening.cancel()
        done, _ = await asyncio.wait({listening}, timeout=5.0)
        await service.kept.close()
        service.close()
        return bool(done) and listening.cancelled()

    assert asyncio.run(left())


def test_nothing_is_left_when_the_app_ends():
    """Live answers end with it, and their timers, and what was kept."""

    async def ended() -> tuple[int, list[int]]:
        head = FakeHead()
        service = Service(head, ApiSettings())
        for number in range(2):
            async with AsyncExitStack() as held:
                exchange = await held.enter_async_context(Exchange(service, "/chat", "chat", stream=True))
                await exchange.submit([Request("hi")], "message")
                answer = service.kept.keep(exchange, ChatEvents(exchange, "small"), held.pop_all())
            if not number:
                with answer.listened():
                    head.say(0, *written("a"))
                    assert [item async for item in answer.events(-1)]
        await service.kept.close()
        with pytest.raises(ApiError):
            service.kept.find(answer.id)
        left = service.kept.bytes
        assert not service.open
        await asyncio.to_thread(head.until, lambda: head.cancelled == [1])
        service.close()
        return left, head.cancelled

    assert asyncio.run(ended()) == (0, [1])
