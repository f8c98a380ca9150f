"""Bodies that the endpoints take, and how their answers are read."""

import json

HI = {"role": "user", "content": "hi"}
CHAT = {"model": "small", "messages": [HI]}
TEXT = {"model": "small", "prompt": "hi"}


def refused(answer, status: int) -> dict:
    """The error of an answer, which has OpenAI's form and no other."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def events(answer) -> list:
    """The data of server-sent events. Where they have an id it is the number in their data."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames.pop() == ""
    told = []
    for frame in frames:
        *before, data = frame.split("\n")
        if data.startswith(":"):
            continue
        text = data.removeprefix("data: ")
        told.append(text if text == "[DONE]" else json.loads(text))
        if before:
            assert before == [f"id: {told[-1]['number']}"]
    return told
