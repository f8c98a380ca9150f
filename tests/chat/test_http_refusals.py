"""What the endpoints refuse of what they are asked, and how they say it."""

import json

import pytest
from pydantic import ValidationError

from smolcluster.chat.backend.asked import ChatAsked, ChatCompletionAsked, CompletionAsked
from tests.chat.asking import CHAT, HI, TEXT, refused

HARMLESS = {
    "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": False,
    "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": False, "tools": [],
    "tool_choice": "none", "response_format": {"type": "text"}, "best_of": 1, "suffix": None, "top_logprobs": None,
}  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_parameters_that_ask_for_nothing_are_taken(api, path):
    body = CHAT if "chat" in path else TEXT
    assert api.client.post(path, json={**body, **HARMLESS}).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True), ("top_logprobs", 3), ("logit_bias", {"5": 10}), ("presence_penalty", 0.5),
        ("frequency_penalty", -1), ("tools", [{"type": "function"}]), ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}), ("best_of", 2), ("suffix", "x"), ("modalities", ["audio"]),
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_honoured_are_refused(api, head, name, value):
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        error = refused(api.client.post(path, json={**body, name: value}), 400)
        assert (error["param"], error["code"], error["type"]) == (
            name,
            "unsupported_parameter",
            "invalid_request_error",
        )
    assert head.requests == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/chat", {}, "messages"),
        ("/chat", {"message": "a", "messages": [HI]}, "messages"),
        ("/chat", {"messages": []}, "messages"),
        ("/chat", {"message": 5}, "message"),
        ("/chat", {"message": "a", "temperature": "1"}, "temperature"),
        ("/chat", {"message": "a", "temperature": 2.5}, "temperature"),
        ("/chat", {"message": "a", "top_p": -0.1}, "top_p"),
        ("/chat", {"message": "a", "top_k": True}, "top_k"),
        ("/chat", {"message": "a", "strategy": "beam"}, "strategy"),
        ("/chat", {"message": "a", "max_tokens": 0}, "max_tokens"),
        ("/chat", {"message": "a", "seed": 1.5}, "seed"),
        ("/chat", {"message": "a", "mesage": "b"}, "mesage"),
        ("/chat", [], None),
        ("/chat", {"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ("/chat", {"messages": [{"role": "user", "content": None}]}, "messages.0.content.str"),
        ("/chat", {"messages": [HI] * 1025}, "messages"),
        ("/v1/chat/completions", {"messages": [HI]}, "model"),
        ("/v1/chat/completions", {**CHAT, "n": 0}, "n"),
        ("/v1/chat/completions", {**CHAT, "n": 17}, "n"),
        ("/v1/chat/completions", {**CHAT, "stop": ["a"] * 17}, "stop.list[constrained-str]"),
        ("/v1/chat/completions", {**CHAT, "stop": ""}, "stop.constrained-str"),
        ("/v1/chat/completions", {**CHAT, "stream_options": {"include": True}}, "stream_options"),
        ("/v1/chat/completions", {**CHAT, "echo": True}, "echo"),
        ("/v1/completions", {**TEXT, "prompt": []}, None),
        ("/v1/completions", {**TEXT, "prompt": [-1]}, None),
        ("/v1/completions", {**TEXT, "prompt": ["a"] * 9, "n": 2}, "n"),
        ("/v1/completions", {**TEXT, "prompt": [1, 2], "echo": True}, "echo"),
    ],
)
def test_what_is_wrong_is_named(api, head, path, body, param):
    error = refused(api.client.post(path, json=body), 400)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"].split(".")[0] == param.split(".")[0]
    assert head.requests == []


def test_what_no_model_here_can_do_is_said_of_the_server(api):
    for name, value in {"tools": [{}], "logprobs": True, "response_format": {"type": "json_object"}}.items():
        error = refused(api.client.post("/v1/chat/completions", json={**CHAT, name: value}), 400)
        assert (error["message"], error["param"]) == (f"{name}: this server does not support it", name)


def test_an_empty_body_is_told_what_to_send(api):
    for path in ("/chat", "/api/chat", "/v1/chat/completions", "/v1/completions"):
        message = refused(api.client.post(path), 400)["message"]
        said, _, example = message.partition("; send JSON, as ")
        assert said == "the body is empty"
        body = json.loads(example)
        assert api.client.post(path, json={**body, "model": "small"} if "model" in body else body).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"null", b'{"message": "\\ud800"}', b'{"message": "a", "temperature": NaN}',
        b'{"message": "a", "temperature": Infinity}', b'{"message": "a", "max_tokens": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000, b'{"\\ud800": 1, "message": "a"}', b'{"message": "a", "stop": ["\\udfff"]}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_json_or_no_text(api, head, body):
    for path in ("/chat", "/v1/chat/completions", "/v1/completions"):
        refused(api.client.post(path, content=body, headers={"content-type": "application/json"}), 400)
    assert head.requests == []


MANY = 100_000


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (CompletionAsked, {**TEXT, "prompt": [-1] * MANY}),
        (CompletionAsked, {**TEXT, "prompt": [[]] * MANY}),
        (CompletionAsked, {**TEXT, "prompt": [["a"] * MANY]}),
        (CompletionAsked, {**TEXT, "prompt": [[-1] * MANY] * 16}),
        (CompletionAsked, {**TEXT, "stop": [1] * MANY}),
        (ChatCompletionAsked, {**CHAT, "messages": [{"role": "user", "content": [{}] * MANY}]}),
        (ChatCompletionAsked, {**CHAT, "messages": [{**HI, **dict.fromkeys(map(str, range(MANY)))}]}),
        (ChatCompletionAsked, {**CHAT, "messages": [0] * MANY}),
        (ChatAsked, {"message": "a", **dict.fromkeys(map(str, range(MANY)))}),
    ],
)
def test_problems_without_number_are_not_all_told(asked, body):
    """All of them at once would be hundreds of thousands, made while everybody else waits."""
    with pytest.raises(ValidationError) as raised:
        asked.model_validate(body)
    assert raised.value.error_count() <= 50


def test_all_problems_are_told_at_once(api):
    error = refused(api.client.post("/chat", json={"message": "a", "top_k": "x", "top_p": 3, "foo": 1}), 400)
    for part in ("top_k", "top_p", "Unrecognized request argument supplied: foo"):
        assert part in error["message"]
