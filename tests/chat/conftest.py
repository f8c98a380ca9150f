from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from smolcluster.chat.backend.api import create_app
from smolcluster.chat.backend.serve import Serving, bind, urls
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.head import Head
from smolcluster.runtime.onetime import make_onetime
from tests.chat.fake_head import FakeHead, written
from tests.infer.conftest import models, stages

__all__ = ["models", "stages"]

KEY = "sk-a-key-that-nobody-guesses"
PATIENCE_S = 60.0


@dataclass
class Served:
    """An API on real sockets, and how to talk to it."""

    app: FastAPI
    serving: Serving
    url: str
    page_url: str
    requests_file: Path
    note_file: Path
    client: httpx2.Client
    held: ExitStack

    def openai(self, **options: Any) -> openai.OpenAI:
        defaults: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE_S}
        client = openai.OpenAI(base_url=f"{self.url}/v1", **{**defaults, **options})
        return self.held.enter_context(client)

    def records(self) -> list[dict]:
        lines = self.requests_file.read_text().splitlines() if self.requests_file.exists() else []
        return [json.loads(line) for line in lines]


def enter(api: Served) -> str:
    """Come in by a link: the cookie."""
    answer = api.client.get("/", params={"key": make_onetime(KEY, time.time())})
    return answer.headers["set-cookie"].partition(";")[0]


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[..., Served]]:
    """serve(head, **settings) -> Served; all end with the test."""
    with ExitStack() as held:

        def start(head: Head, leave_s: float = 0.5, tls: ssl.SSLContext | None = None, **changes: Any) -> Served:
            bound = bind(("127.0.0.1",), {"api": 0, "page": 0})
            where = urls(bound, tls is not None)
            files = {"requests_file": tmp_path / "requests.jsonl", "note_file": tmp_path / "serving.json"}
            # Who leaves frees the model at once, except in the tests that come back.
            app = create_app(head, ApiSettings(**{"urls": where, **files, "resume_s": 0, **changes}))
            serving = held.enter_context(Serving(app, bound, leave_s, tls))
            client = held.enter_context(httpx2.Client(base_url=where["api"], timeout=PATIENCE_S))
            return Served(app, serving, where["api"], where["page"], **files, client=client, held=held)

        yield start


@pytest.fixture
def head() -> FakeHead:
    return FakeHead(lambda request: written("Hel", "lo", rest="!", reason="stop"))


@pytest.fixture
def api(serve, head) -> Served:
    return serve(head)
