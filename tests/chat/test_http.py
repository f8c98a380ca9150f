"""What the endpoints take, what they give, and how they fail."""

import pytest

from smolcluster.errors import BusyError, PeerLostError, RequestError
from smolcluster.infer.request import Delta, Failed
from smolcluster.models.sampling import Sampling
from tests.chat.asking import CHAT, HI, TEXT, events, refused
from tests.chat.fake_head import ABOUT, PROMPT_TOKENS, READY, usage


def test_chat_answers_a_message(api, head):
    body = api.client.post("/chat", json={"message": "hi"}).json()
    assert (body["type"], body["model"], body["text"], body["finish_reason"]) == ("done", "small", "Hello!", "stop")
    assert body["usage"] == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 2, "total_tokens": PROMPT_TOKENS + 2}
    asked = head.requests[0]
    assert asked.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert [asked.prompt[start:stop] for start, stop in asked.literal] == ["hi"]
    assert asked.sampling == Sampling(0.7, top_p=0.9)
    assert asked.max_tokens is None


def test_chat_streams_the_same_as_events(api):
    begin, *tokens, done = events(api.client.post("/chat", json={"messages": [HI], "stream": True}))
    assert begin == {"type": "begin", "number": 0, "id": done["id"], "model": "small", "prompt_tokens": PROMPT_TOKENS}
    assert tokens == [
        {"type": "token", "number": number, "text": text} for number, text in enumerate(("Hel", "lo", "!"), 1)
    ]
    assert (done["type"], done["number"], done["text"], done["finish_reason"]) == ("done", 4, "Hello!", "stop")


def test_everything_is_under_api_too_and_on_the_page_s_port(api):
    for base in (api.url, api.page_url):
        for prefix in ("", "/api"):
            url = f"{base}{prefix}"
            assert api.client.get(f"{url}/health").json()["state"] == "ready"
            assert api.client.post(f"{url}/chat", json={"message": "hi"}).json()["text"] == "Hello!"
            assert api.client.get(f"{url}/v1/models").json()["data"][0]["id"] == "small"


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, Sampling(0.7, top_p=0.9)),
        ({"temperature": 0}, Sampling(0.0)),
        ({"temperature": 1e-300}, Sampling(0.0)),
        ({"temperature": 1.5}, Sampling(1.5, top_p=0.9)),
        ({"top_p": 0}, Sampling(0.0)),
        ({"top_k": 7}, Sampling(0.7, top_k=7, top_p=0.9)),
        ({"strategy": "greedy", "temperature": 1.0, "top_k": 5}, Sampling(0.0)),
        ({"strategy": "top_k", "temperature": 0.5, "top_p": 0.2}, Sampling(0.5, top_k=40)),
        ({"strategy": "top_k", "top_k": 3}, Sampling(1.0, top_k=3)),
        ({"strategy": "top_p", "top_p": 0.2, "top_k": 3}, Sampling(0.7, top_p=0.2)),
        ({"strategy": "sampling", "temperature": 0.5, "top_p": 0.2, "top_k": 3}, Sampling(0.5)),
    ],
)
def test_how_to_decode(api, head, asked, wanted):
    for path, body in (("/chat", {"message": "hi"}), ("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        assert api.client.post(path, json={**body, **asked}).status_code == 200
        assert head.requests.pop().sampling == wanted


def test_seeds_are_the_client_s_or_new_each_time(api, head):
    api.client.post("/v1/chat/completions", json={**CHAT, "n": 3, "seed": 2**63 - 2})
    assert [request.seed for request in head.requests] == [2**63 - 2, 2**63 - 1, -(2**63)]
    head.requests.clear()
    for seed in (-(2**63), 2**63 - 5, 2**200, 7.0):
        api.client.post("/chat", json={"message": "hi", "seed": seed})
    assert [request.seed for request in head.requests] == [-(2**63), 2**63 - 5, 0, 7]
    head.requests.clear()
    for _ in range(4):
        api.client.post("/chat", json={"message": "hi"})
    assert len({request.seed for request in head.requests}) == 4


def test_what_the_request_says_reaches_the_head(serve, head):
    api = serve(head, request_s=12.5)
    body = {**CHAT, "max_tokens": 3, "max_completion_tokens": 4, "stop": ["a", "b"], "seed": 5}
    assert api.client.post("/v1/chat/completions", json=body).status_code == 200
    body = {**TEXT, "max_tokens": 3, "stop": "x"}
    assert api.client.post("/v1/completions", json=body).status_code == 200
    first, second = head.requests
    assert (first.max_tokens, first.stop, first.seed, first.deadline_s) == (4, ("a", "b"), 5, 12.5)
    assert (second.prompt, second.max_tokens, second.stop, second.literal) == ("hi", 3, ("x",), ())


def test_messages_of_parts_and_developers(api, head):
    messages = [
        {"role": "developer", "content": "be kind", "name": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "d"},
    ]
    assert api.client.post("/v1/chat/completions", json={**CHAT, "messages": messages}).status_code == 200
    turns = ("system\nbe kind", "user\na\nb", "assistant\nc", "user\nd")
    wanted = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    assert head.requests[0].prompt == f"{wanted}<|im_start|>assistant\n"


def test_without_a_template_the_last_words_of_the_user_are_continued(serve, head):
    head.model = ABOUT.model_copy(update={"chat_template": None})
    api = serve(head)
    messages = [HI, {"role": "assistant", "content": "x"}, {"role": "user", "content": "Once"}, HI]
    assert api.client.post("/chat", json={"messages": messages}).status_code == 200
    assert (head.requests[0].prompt, head.requests[0].literal) == ("Once\nhi", ((0, 7),))
    only = [{"role": "assistant", "content": "x"}]
    assert "message of a user" in refused(api.client.post("/chat", json={"messages": only}), 400)["message"]


def test_prompts_of_token_ids_and_several(api, head):
    body = api.client.post("/v1/completions", json={**TEXT, "prompt": [5, 6]}).json()
    assert head.requests[0].prompt == [5, 6]
    assert body["choices"] == [{"index": 0, "text": "Hello!", "logprobs": None, "finish_reason": "stop"}]
    head.requests.clear()
    body = api.client.post("/v1/completions", json={**TEXT, "prompt": [[5], [6, 7]], "n": 2}).json()
    assert [request.prompt for request in head.requests] == [[5], [5], [6, 7], [6, 7]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}
    body = api.client.post("/v1/completions", json={**TEXT, "prompt": ["a", "a"]}).json()
    assert body["usage"]["prompt_tokens"] == 10
    body = api.client.post("/v1/completions", json={**TEXT, "prompt": ["a", "b"], "echo": True}).json()
    assert [choice["text"] for choice in body["choices"]] == ["aHello!", "bHello!"]


def test_a_model_that_is_not_served(api):
    for body, path in ((CHAT, "/v1/chat/completions"), (TEXT, "/v1/completions")):
        error = refused(api.client.post(path, json={**body, "model": "gpt-9"}), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert refused(api.client.get("/v1/models/owner/name"), 404)["code"] == "model_not_found"
    assert api.client.get("/v1/models/small").json()["id"] == "small"


def test_what_is_not_there(api):
    refused(api.client.get("/nothing"), 404)
    assert refused(api.client.get("/chat"), 405)
    refused(api.client.options("/chat"), 405)


def test_what_the_head_refuses(api, head):
    head.refuse = RequestError("it needs room for 99 tokens")
    assert refused(api.client.post("/chat", json={"message": "hi"}), 400)["message"] == "it needs room for 99 tokens"
    head.refuse = RequestError("the prompt has 65 tokens")
    error = refused(api.client.post("/v1/completions", json={**TEXT, "prompt": "x" * 65}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "64 tokens" in error["message"]
    assert "65 tokens" in error["message"]
    error = refused(api.client.post("/v1/completions", json={**TEXT, "prompt": [1] * 65}), 400)
    assert error["code"] == "context_length_exceeded"
    head.refuse = BusyError("64 requests wait already")
    answer = api.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert refused(answer, 429)["type"] == "rate_limit_error"
    assert int(answer.headers["retry-after"]) > 0
    head.refuse = PeerLostError("pi5 is gone")
    answer = api.client.post("/v1/chat/completions", json=CHAT)
    assert refused(answer, 503)["message"] == "pi5 is gone"


def test_one_refused_of_several_frees_the_others(serve, head):
    head.script = None
    head.most = 2
    api = serve(head)
    assert refused(api.client.post("/v1/chat/completions", json={**CHAT, "n": 3}), 429)
    head.until(lambda: sorted(head.cancelled) == [0, 1])


@pytest.mark.parametrize(
    ("trouble", "status", "kind"),
    [("deadline", 504, "timeout_error"), ("stage_lost", 503, "server_error"), ("closed", 503, "server_error")],
)
def test_failures_before_and_within_a_stream(api, head, trouble, status, kind):
    head.script = lambda request: [Delta(1, "He"), Failed(trouble, "pi5 is gone", usage(1))]
    error = refused(api.client.post("/v1/chat/completions", json=CHAT), status)
    assert error == {"message": "pi5 is gone", "type": kind, "param": None, "code": trouble}
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        answer = api.client.post(path, json={**body, "stream": True})
        assert answer.status_code == 200
        assert events(answer)[-1] == {"error": error}
    *_, last = events(api.client.post("/chat", json={"message": "hi", "stream": True}))
    assert last == {"type": "error", "number": 2, "error": error}
    assert [record["finish"] for record in api.records()] == [trouble] * 4
    assert [record["status"] for record in api.records()] == [status, 200, 200, 200]


def test_chunks_of_a_chat_completion(api):
    body = {**CHAT, "stream": True, "n": 2, "stream_options": {"include_usage": True}}
    chunks = events(api.client.post("/v1/chat/completions", json=body))
    assert chunks.pop() == "[DONE]"
    last = chunks.pop()
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 4, "total_tokens": PROMPT_TOKENS + 4}
    assert all(chunk["usage"] is None for chunk in chunks)
    for number in range(2):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == number]
        deltas = [choice["delta"] for choice in own]
        assert deltas == [
            {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {"content": "!"}, {},
        ]  # fmt: skip
        assert [choice["finish_reason"] for choice in own] == [None] * 4 + ["stop"]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in [*chunks, last]} == {
        (last["id"], "chat.completion.chunk", "small")
    }


def test_chunks_of_a_completion(api):
    body = {**TEXT, "stream": True, "echo": True}
    chunks = events(api.client.post("/v1/completions", json=body))
    assert chunks.pop() == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["hi", "Hel", "lo", "!"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


def test_config(api):
    body = api.client.get("/config").json()
    assert (body["model"], body["layers"], body["precision"], body["chat"]) == ("small", 4, "fp32", True)
    assert body["active_strategy"] == "top_p"
    assert body["strategies"]["greedy"] == {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
    assert body["strategies"]["top_k"] == {"temperature": 1.0, "top_k": 40, "top_p": 1.0}
    limits = body["limits"]
    assert (limits["context"], limits["max_tokens"], limits["default_max_tokens"]) == (64, 64, 16)


def test_health_tells_the_truth(api, head):
    answer = api.client.get("/health")
    assert answer.status_code == 200
    stages = answer.json()["stages"]
    told = [(stage["node"], stage["layers"], stage["alive"], stage["ms_per_step"]) for stage in stages]
    assert told == [("mini1", "0:2", True, 5.0), ("pi5", "2:4", True, 10.0)]
    gone = READY.stages[1].model_copy(update={"alive": False, "steps": 0, "busy_s": 0.0})
    head.now = READY.model_copy(update={"state": "lost", "reason": "pi5 is gone", "stages": (READY.stages[0], gone)})
    answer = api.client.get("/health")
    assert answer.status_code == 503
    assert (answer.json()["state"], answer.json()["reason"]) == ("lost", "pi5 is gone")
    assert [stage["alive"] for stage in answer.json()["stages"]] == [True, False]


def test_reconnect(serve, head):
    api = serve(head, reconnect_s=7.0)
    assert api.client.post("/reconnect").json()["state"] == "ready"
    assert head.reconnects == [7.0]
    head.refuse = PeerLostError("pi5 did not come")
    assert refused(api.client.post("/reconnect"), 503)["message"] == "pi5 did not come"


def test_before_the_model_is_there(serve, head):
    head.now = READY.model_copy(update={"state": "starting", "reason": "the stages have not come yet"})
    api = serve(head)
    assert api.client.get("/health").status_code == 503
    for answer in (
        api.client.post("/chat", json={"message": "hi"}),
        api.client.post("/v1/completions", json=TEXT),
        api.client.get("/v1/models"),
        api.client.get("/config"),
    ):
        assert "the stages have not come yet" in refused(answer, 503)["message"]
    assert api.client.get("/").status_code == 200


def test_a_bug_is_told_in_the_same_form(api, head, caplog):
    def broken(request):
        raise ZeroDivisionError

    head.submit = lambda request, tell: broken(request)
    assert refused(api.client.post("/chat", json={"message": "hi"}), 500)["type"] == "server_error"
    assert "a bug while answering POST /chat" in caplog.text
    assert api.records()[0]["finish"] == "internal_error"
