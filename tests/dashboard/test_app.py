"""The application: who may come in, the stream, errors in one form, and whatever is sent."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import SecretStr
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.cli import main
from smolcluster.dashboard.__main__ import document
from smolcluster.dashboard.app import COOKIE, create_dashboard
from smolcluster.dashboard.process import key_of
from smolcluster.dashboard.reading import Reading
from smolcluster.runtime.onetime import make_onetime
from tests.chat.asking import refused
from tests.dashboard.folders import NODES, client_of, run_folder, with_end, with_job, with_links

KEY = "sk-a-key-that-nobody-guesses"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    folder = run_folder(tmp_path_factory.mktemp("runs") / "a-run")
    with_links(folder)
    for rank, node in enumerate(NODES):
        with_job(folder, node)
        with_end(folder, rank)
    (folder.path / "secret").write_text("5ec7e7" * 10)
    return folder


def test_nobody_without_the_key(finished) -> None:
    app = create_dashboard(Reading(finished, "wish"), ApiSettings(key=SecretStr(KEY), names=("testserver",)))
    client = TestClient(app)
    for path in ("run", "state", "stream", "series?name=loss", "events", "logs"):
        assert refused(client.get(f"/dashboard/{path}"), 401)["code"] == "invalid_api_key"
    refused(client.post("/dashboard/stop", json={"confirm": "a-run"}), 401)
    assert client.get("/").status_code == 401
    entered = client.get("/", params={"key": make_onetime(KEY, time.time())}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert entered.headers["set-cookie"].startswith(f"{COOKIE}=")
    assert client.get("/dashboard/run").json()["run_id"] == "a-run"
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
    other = client.post("/dashboard/stop", json={"confirm": "a-run"}, headers={"Origin": "http://evil.example"})
    assert refused(other, 403)["code"] == "cross_origin"
    assert TestClient(app, base_url="http://evil.example").get("/dashboard/run").status_code == 403


def test_errors_have_one_form(finished) -> None:
    client = client_of(finished)
    assert "query.name" in refused(client.get("/dashboard/series"), 400)["message"]
    refused(client.get("/dashboard/series", params={"name": "loss", "points": 0}), 400)
    refused(client.get("/dashboard/logs", params={"limit": 10**9}), 400)
    refused(client.get("/dashboard/logs", params={"before": "a", "after": "b"}), 400)
    assert refused(client.get("/dashboard/logs", params={"after": "a"}), 400)["param"] == "after"
    refused(client.get("/dashboard/nope"), 404)
    refused(client.put("/dashboard/stop"), 405)
    refused(client.post("/dashboard/stop", json={"confirm": 3, "more": 1}), 400)


def test_the_same_under_api(finished) -> None:
    client = client_of(finished)
    assert client.get("/api/dashboard/run").json() == client.get("/dashboard/run").json()


def test_every_schema_is_in_the_document() -> None:
    whole = document()
    assert set(whole["paths"]) == {
        f"/dashboard/{name}" for name in ("run", "state", "stream", "series", "events", "logs", "stop")
    }
    assert "StateAnswer" in whole["components"]["schemas"]


OPERATIONS = [("run", "GET"), ("state", "GET"), ("series", "GET"), ("events", "GET"), ("logs", "GET"), ("stop", "POST")]


# `run` takes nothing that could be wrong.
CASES = [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS] + [
    (*operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation[0] != "run"
]


@pytest.mark.parametrize(("name", "method", "mode"), CASES)
def test_whatever_is_sent(finished, name: str, method: str, mode: GenerationMode) -> None:
    app = create_dashboard(Reading(finished), ApiSettings(names=("testserver",)))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)

    @given(case=schema[f"/dashboard/{name}"][method].as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def answers_as_the_schema_says(case):
        case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])

    answers_as_the_schema_says()


def test_the_process_and_its_stream(finished) -> None:
    """On its own sockets; a browser that is in stays in when the process is started again."""
    command = [sys.executable, "-m", "smolcluster", "dashboard", str(finished.path)]

    def start() -> tuple[subprocess.Popen[str], str, str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "Dashboard of a-run\n"
        url, _, key = process.stdout.readline().strip().partition("/?key=")
        return process, url, key

    with httpx2.Client(timeout=60) as client:
        process, url, key = start()
        try:
            assert url.startswith("http://127.0.0.1:")
            assert client.get(f"{url}/dashboard/state").status_code == 401
            assert client.get(f"{url}/", params={"key": key}).status_code == 303
            with client.stream("GET", f"{url}/api/dashboard/stream") as stream:
                lines = stream.iter_lines()
                first = [next(lines) for _ in range(3)]
                now = json.loads(first[2].removeprefix("data: "))
                assert first[:2] == [f"id: {now['cursor']}", "event: state"]
                assert (now["state"], now["over"]) == ("completed", True)
                process.send_signal(signal.SIGTERM)
                assert [line for line in lines if line.startswith("data")] == []
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()
        process, url, _ = start()
        try:
            # The link stays used.
            assert httpx2.get(f"{url}/", params={"key": key}, timeout=60).status_code == 409
            assert key not in finished.dashboard_links.read_text()
            assert stat.S_IMODE(finished.dashboard_links.stat().st_mode) == 0o600
            assert client.get(f"{url}/dashboard/state").json()["cursor"] == now["cursor"]
            stop = client.post(f"{url}/dashboard/stop", json={"confirm": "a-run"})
            assert refused(stop, 409)["code"] == "over"
        finally:
            process.kill()
            process.communicate()


def test_it_ends_with_whom_it_belongs_to(finished) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [sys.executable, "-m", "smolcluster", "dashboard", str(finished.path), "--belongs-to", str(owner.pid)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "Dashboard of a-run\n"
        owner.kill()
        owner.communicate()
        assert process.wait(60) == 0
    finally:
        for each in (owner, process):
            each.kill()
            each.communicate()


def test_without_a_web_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["dashboard"]) == 2
    said = capsys.readouterr().err
    assert "is not installed (fastapi, uvicorn, websockets)" in said
    assert ".venv/bin/pip install -e '.[dashboard]'" in said


def test_a_person_s_mistakes(tmp_path: Path, finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path / "nope")]) == 2
    assert "there is no such run" in capsys.readouterr().err
    (tmp_path / "file").write_text("nowhere")
    assert main(["dashboard", str(tmp_path / "file")]) == 2
    with httpx2.Client(), _taken() as port:
        assert main(["dashboard", str(finished.path), "--port", str(port)]) == 2
    assert f"port {port} is in use" in capsys.readouterr().err


def _taken():
    import contextlib
    import socket

    @contextlib.contextmanager
    def held():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            yield taken.getsockname()[1]

    return held()


def test_the_key_is_the_run_s(finished, tmp_path: Path) -> None:
    assert key_of(finished) == key_of(finished)
    assert "5ec7e7" not in key_of(finished)
    alone = run_folder(tmp_path / "copied")
    assert key_of(alone) != key_of(alone)
    assert len(key_of(alone)) == 64
    assert os.fspath(finished.path)
