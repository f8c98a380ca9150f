"""`python -m smolcluster serve` with a tablet between two computers, which a process of its own plays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infer.infer_models import generate, save, small_tokenizer
from tests.infer.test_serve_command import ROOT, START_S, Served, health, post

INVENTORY = """\
schema: 1
name: hybrid
machines:
  one: {{connection: local, threads: 1}}
  ipad: {{app: {app}}}
  two: {{connection: local, threads: 1}}
networks:
  loopback:
    medium: loopback
    subnet: 127.0.0.0/8
    private: true
    members: {{one: 127.0.0.1, ipad: 127.0.0.1, two: 127.0.0.1}}
defaults:
  port: 0
  stages: [{{host: one, layers: "0:1"}}, {{host: ipad, layers: "1:3"}}, {{host: two, layers: "3:4"}}]
"""
PROMPT = "the dog saw the"
TOKENS = 24


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "hybrid.smol.yml").write_text(INVENTORY.format(app="browser"))
    return tmp_path


@pytest.fixture
def serve(project: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(*flags: str) -> Served:
        made.append(Served(project, "-i", "inventory/hybrid.smol.yml", "--model", "tiny", "--port", "0", *flags))
        return made[-1]

    yield start
    for served in made:
        served.clean()


@pytest.fixture
def play(project: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A tablet in a process of its own, let in by its link: `player.py`."""
    made: list[subprocess.Popen[str]] = []

    def start(link: str) -> subprocess.Popen[str]:
        player = subprocess.Popen(
            [sys.executable, "-m", "tests.tablet.player"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, bufsize=1, cwd=project,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        )  # fmt: skip
        made.append(player)
        assert player.stdin is not None
        player.stdin.write(f"{link}\n")
        return player

    yield start
    for player in made:
        player.kill()
        player.communicate(timeout=30)


def hold(player: subprocess.Popen[str], steps: int) -> None:
    """From now on it computes so many steps, then none."""
    assert player.stdin is not None
    assert player.stderr is not None
    player.stdin.write(f"{steps}\n")
    assert "holding\n" in player.stderr  # it reads until then


def model_in(project: Path, kind: str) -> str:
    """A tiny model in the project, and how it goes on."""
    tokenizer = small_tokenizer()
    model, folder = save(kind, project / "tiny")
    tokenizer.save(str(folder / "tokenizer.json"))
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    return tokenizer.decode(generate(model, prompt, TOKENS), skip_special_tokens=False)


def asked(stream: bool = False) -> dict[str, Any]:
    return {"model": "tiny", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "stream": stream}


def link_of(served: Served) -> str:
    def found() -> str:
        return next((line.split()[1] for line in served.lines if line.startswith("ipad  http")), "")

    return served.until(found, "the tablet's link is told")


def tablet_of(url: str) -> dict[str, Any]:
    """What the API says of it."""
    with urllib.request.urlopen(f"{url}/tablets", timeout=60) as answer:
        [tablet] = json.load(answer)["tablets"]
    assert isinstance(tablet, dict)
    return tablet


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", pytest.param("llama", marks=pytest.mark.soak)])
@pytest.mark.timeout(400)
def test_a_tablet_killed_in_mid_stream_and_back_continues_the_text(project, serve, play, kind):
    right = model_in(project, kind)
    served = serve()
    player = play(link_of(served))
    url = served.url("api")
    served.remember()
    assert any("one  ipad: waiting for its browser, " in line for line in served.lines), served.text
    status, answer = post(f"{url}/v1/completions", asked())
    assert (status, answer["choices"][0]["text"]) == (200, right)
    with urllib.request.urlopen(f"{url}/stages", timeout=60) as stages:
        strips = json.load(stages)["stages"]
    assert [(one["node"], one["tablet"], one["health"]) for one in strips] == [
        ("one", "", "serving"), ("ipad", "browser", "serving"), ("two", "", "serving"),
    ]  # fmt: skip

    assert tablet_of(url).items() >= {"node": "ipad", "state": "connected", "layers": "1:3", "url": None}.items()
    shown: list[str] = []

    def come_again() -> None:
        """By the link that the chat page shows."""
        served.until(lambda: tablet_of(url)["state"] == "waiting", "the API says that the tablet has gone")
        shown.append(tablet_of(url)["url"])
        # Before it is back: whoever looks now and then may else not see that it was away.
        served.until(lambda: "ipad: waiting for its browser again" in served.text, "that it is waited for again")
        play(shown[0])

    body = json.dumps(asked(stream=True)).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    told: list[str] = []
    hold(player, 4)
    with urllib.request.urlopen(request, timeout=200) as events:
        for line in events:
            field, _, data = line.decode().strip().partition(": ")
            if field != "data" or data == "[DONE]":  # while it waits there are comments
                continue
            told.append(json.loads(data)["choices"][0]["text"])
            if len(told) == 2:
                player.send_signal(signal.SIGKILL)
                player.wait(30)
                threading.Thread(target=come_again).start()
    assert "".join(told) == right
    assert shown == [link_of(served)]
    served.until(lambda: health(url)["state"] == "ready", "it serves again")
    assert served.finish() == 130, served.text
    summary = json.loads((project / "runs" / "latest" / "summary.json").read_text())
    assert (summary["kind"], summary["status"], summary["failed"]) == ("inference", "stopped", 0)
    key = link_of(served).rpartition("=")[2]
    run = (project / "runs" / "latest").resolve()
    assert not [file for file in run.rglob("*") if file.is_file() and key.encode() in file.read_bytes()]
    # The second time nothing is exported.
    assert "ipad: layers 1:3 exported to " in served.text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tablet_that_does_not_come_ends_the_run_with_what_to_do(project, serve):
    model_in(project, "gpt2")
    served = serve("--override", "tablet_wait=2")
    assert served.process.wait(START_S) == 3, served.text
    served.remember()
    served.until(lambda: "ipad did not come within 2 s" in served.text, "who did not come", 10)
    assert "or serve without it: -e optional=ipad (--override optional=ipad)" in served.text
