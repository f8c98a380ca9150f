"""What is written down: requests.jsonl, serving.json, Prometheus' figures. Never a word of what was asked."""

import asyncio
import json
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from smolcluster.chat.backend.note import keep_note
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.request import Delta
from smolcluster.runtime.runfolder import RequestRecord, ServingNote, write_atomic
from tests.chat.fake_head import PROMPT_TOKENS, READY, written

SECRET = "xyzzy-secret"


def figures(api) -> dict:
    text = api.client.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_request_leaves_a_record(api, head):
    api.client.post("/chat", json={"message": SECRET})
    api.client.post("/v1/completions", json={"model": "small", "prompt": SECRET, "n": 2, "stream": True})
    api.client.post("/v1/completions", json={"model": "other", "prompt": SECRET})
    head.script = lambda request: written("a", "b", "c")
    body = {"model": "small", "messages": [{"role": "user", "content": SECRET}]}
    api.client.post("/v1/chat/completions", json=body)
    assert SECRET not in api.requests_file.read_text()
    records = [RequestRecord.model_validate(record) for record in api.records()]
    told = [
        (one.endpoint, one.status, one.stream, one.prompt_tokens, one.completion_tokens, one.finish) for one in records
    ]
    assert told == [
        ("/chat", 200, False, PROMPT_TOKENS, 2, "stop"),
        ("/v1/completions", 200, True, PROMPT_TOKENS, 4, "stop"),
        ("/v1/completions", 404, False, 0, 0, "model_not_found"),
        ("/v1/chat/completions", 200, False, PROMPT_TOKENS, 3, "length"),
    ]
    assert [one.id.partition("-")[0] for one in records] == ["chat", "cmpl", "cmpl", "chatcmpl"]
    assert records[0].first_s is not None
    assert 0 < records[0].first_s <= records[0].seconds
    assert records[2].first_s is None


def test_a_disk_that_refuses_stops_nothing(serve, head, tmp_path, caplog):
    api = serve(head, requests_file=tmp_path / "missing" / "requests.jsonl", note_file=tmp_path)
    for _ in range(2):
        assert api.client.post("/chat", json={"message": "hi"}).status_code == 200
    assert caplog.text.count("requests are not recorded any more") == 1


def test_prometheus(api, head):
    for _ in range(3):
        api.client.post("/chat", json={"message": "hi"})
    api.client.post("/api/chat", json={"nothing": "hi"})
    for number in range(5):
        api.client.get(f"/made-up-{number}")
    gone = READY.stages[1].model_copy(update={"alive": False})
    head.now = READY.model_copy(update={"active": 2, "waiting": 3, "epoch": 4, "stages": (READY.stages[0], gone)})
    seen = figures(api)
    assert seen["smolcluster_requests_total", ("endpoint", "/chat"), ("status", "200")] == 3
    assert seen["smolcluster_requests_total", ("endpoint", "/chat"), ("status", "400")] == 1
    assert seen["smolcluster_requests_total", ("endpoint", "other"), ("status", "404")] == 5
    assert seen["smolcluster_completion_tokens_total",] == 6
    assert seen["smolcluster_prompt_tokens_total",] == 3 * PROMPT_TOKENS
    assert seen["smolcluster_time_to_first_token_seconds_count",] == 3
    assert seen["smolcluster_request_tokens_per_second_count",] == 3
    assert seen["smolcluster_active",] == 2
    assert seen["smolcluster_waiting",] == 3
    assert seen["smolcluster_epoch",] == 4
    assert seen["smolcluster_state", ("state", "ready")] == 1
    assert seen["smolcluster_state", ("state", "lost")] == 0
    assert seen["smolcluster_tokens_per_second",] > 0
    first, second = (("node", "mini1"), ("rank", "0")), (("node", "pi5"), ("rank", "1"))
    assert seen["smolcluster_stage_step_seconds", *first] == 0.005
    assert seen["smolcluster_stage_alive", *first] == 1
    assert seen["smolcluster_stage_alive", *second] == 0
    assert ("smolcluster_stage_step_seconds", *second) not in seen


def noted(api, true) -> ServingNote:
    """The note, once it says so."""
    tries = threading.Event()
    for _ in range(600):
        if api.note_file.exists():
            note = ServingNote.model_validate(json.loads(api.note_file.read_text()))
            if true(note):
                return note
        tries.wait(0.05)
    raise AssertionError(note)


def test_the_note_follows(serve, head):
    head.now = READY.model_copy(update={"state": "starting", "reason": "the stages have not come yet"})
    api = serve(head)
    note = noted(api, lambda note: note.state == "starting")
    assert note.reason == "the stages have not come yet"
    assert note.urls == {"api": api.url, "page": api.page_url}
    assert note.layers == {}
    head.now = READY.model_copy(update={"active": 1, "waiting": 2})
    note = noted(api, lambda note: note.state == "ready")
    assert (note.active, note.waiting, note.requests, note.tokens) == (1, 2, 0, 0)
    api.client.post("/chat", json={"message": "hi"})
    head.script = None
    with api.client.stream("POST", "/chat", json={"message": "hi", "stream": True}):
        head.asked(2)
        head.say(1, Delta(1, "some"))
        note = noted(api, lambda note: note.tokens == 3)
        assert (note.requests, note.failed) == (1, 0)
        assert note.tokens_per_s > 0
        head.now = READY.model_copy(update={"state": "lost", "reason": "pi5 is gone"})
        lost = noted(api, lambda note: note.state == "lost")
        assert lost.reason == "pi5 is gone"
        assert lost.layers == {stage.rank: f"{stage.start}:{stage.stop}" for stage in READY.stages}
    api.serving.stop()
    note = ServingNote.model_validate(json.loads(api.note_file.read_text()))
    assert (note.state, note.reason, note.tokens) == ("closed", "the API was stopped", 3)


def test_the_last_note_is_the_last(head, tmp_path, monkeypatch):
    """A write that is under way when the API is stopped does not come to lie over it."""
    file = tmp_path / "serving.json"
    under_way, go, written_late = threading.Event(), threading.Event(), threading.Event()

    def slow(path, text):
        late = json.loads(text)["state"] == "ready"
        if late:
            under_way.set()
            assert go.wait(60)
        write_atomic(path, text)
        if late:
            written_late.set()

    async def stopped_while_it_writes() -> None:
        service = Service(head, ApiSettings())
        keeping = asyncio.create_task(keep_note(service, file))
        assert await asyncio.to_thread(under_way.wait, 60)
        keeping.cancel()
        asyncio.get_running_loop().call_later(0.1, go.set)
        with pytest.raises(asyncio.CancelledError):
            await keeping
        assert await asyncio.to_thread(written_late.wait, 60)
        service.close()

    monkeypatch.setattr("smolcluster.chat.backend.note.write_atomic", slow)
    asyncio.run(stopped_while_it_writes())
    assert json.loads(file.read_text())["state"] == "closed"


@pytest.mark.parametrize("trouble", ["stage_lost", "deadline"])
def test_failures_are_counted(serve, head, trouble):
    from smolcluster.infer.request import Failed
    from tests.chat.fake_head import usage

    head.script = lambda request: [Failed(trouble, "gone", usage(0))]
    api = serve(head)
    api.client.post("/chat", json={"message": "hi"})
    api.client.post("/chat", json={"message": "hi", "stream": True})
    api.client.post("/chat", json={"nothing": "hi"})
    note = noted(api, lambda note: note.requests == 2)
    assert note.failed == 2
