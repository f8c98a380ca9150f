"""`python -m smolcluster serve` as a person types it: three stages and the API, one killed meanwhile, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from smolcluster.jobs.identity import ProcessId, alive, end
from smolcluster.jobs.registry import Registry
from tests.infer.infer_models import generate, save, small_tokenizer

ROOT = Path(__file__).resolve().parents[2]
NODES = ("node1", "node2", "node3")
START_S = 150.0
# Its greedy continuation by the random model has no end token in it.
PROMPT = "the dog saw the"


class Served:
    """The command, running in a project of its own."""

    def __init__(self, project: Path, *flags: str) -> None:
        self.project = project
        self.seen: set[ProcessId] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smolcluster", "serve", *flags,
             "--override", "web_interface.frontend_port=0"],
            cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "110"},
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = START_S) -> Any:
        stop, pause = time.monotonic() + deadline_s, threading.Event()
        while not (found := condition()):
            assert time.monotonic() < stop, f"not within {deadline_s} s: {what}\n{self.text}"
            pause.wait(0.05)
        return found

    def url(self, name: str) -> str:
        pattern = re.compile(rf"^{name} +(http://\S+)$", re.MULTILINE)
        return self.until(lambda: pattern.search(self.text), f"the address of the {name} is told").group(1)

    def remember(self) -> None:
        for node in NODES:
            active = Registry.of_run(self.project / "runs" / "latest", node).active()
            if active is not None:
                self.seen |= {active.owner, *active.ranks.values()}

    def finish(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def clean(self) -> None:
        """Whatever a failed test left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        self.remember()
        for who in self.seen:
            end(who, grace_s=0)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", tmp_path / "inventory")
    return tmp_path


@pytest.fixture
def serve(project: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(*flags: str) -> Served:
        made.append(Served(project, *flags))
        return made[-1]

    yield start
    for served in made:
        served.clean()


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def health(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_model_is_served_until_ctrl_c(project: Path, serve: Callable[..., Served]) -> None:
    tokenizer = small_tokenizer()
    model, folder = save("llama", project / "tiny")
    tokenizer.save(str(folder / "tokenizer.json"))
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    right = tokenizer.decode(generate(model, prompt, 12), skip_special_tokens=False)
    served = serve("--model", "tiny", "--port", "0")
    url = served.url("api")
    served.remember()
    assert url != served.url("page")
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}

    def answer() -> str:
        status, said = post(f"{url}/v1/completions", asked)
        assert status == 200, said
        return said["choices"][0]["text"]

    assert answer() == right
    run = project / "runs" / "latest"
    plan = json.loads((run / "plan.json").read_text())
    assert [stage["stop"] for stage in plan["stages"]][-1] == plan["layers"] == 4

    # Another one is refused, and nothing of it stays.
    other = serve("--model", "tiny", "--port", "0")
    assert other.process.wait(START_S) == 2
    other.until(lambda: "is active in" in other.text, "why it is refused", 10)
    assert [path.name for path in (project / "runs").glob("2*")] == [run.resolve().name]

    # A stage dies: it alone is started again, and the same is answered.
    stage = Registry.of_run(run, "node2").active()
    assert stage is not None
    psutil.Process(stage.ranks[1].pid).kill()
    served.until(lambda: health(url)["state"] != "ready" or health(url)["epoch"] > 1, "the loss is told")
    served.until(lambda: health(url)["state"] == "ready" and health(url)["epoch"] > 1, "it is ready again")
    assert answer() == right
    served.until(lambda: "rank 1: ended by signal 9" in served.text, "the restart is told")
    served.remember()

    assert served.finish() == 130, served.text
    assert not any(alive(who) for who in served.seen)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["kind"], summary["status"], summary["exit_code"]) == ("inference", "stopped", 130)
    assert summary["requests"] == 2
    assert summary["tokens"] == 24
    jobs = {node: json.loads((run / "nodes" / node / "job.json").read_text()) for node in NODES}
    assert {node: job["state"] for node, job in jobs.items()} == dict.fromkeys(NODES, "stopped")
    assert jobs["node1"]["restarts"] == 0
    assert f"run {run.resolve().name}" in served.text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_port_that_is_taken_ends_it_with_the_reason(project: Path, serve: Callable[..., Served]) -> None:
    _, folder = save("gpt2", project / "tiny")
    small_tokenizer().save(str(folder / "tokenizer.json"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = serve("--model", "tiny", "--port", str(port))
        assert served.process.wait(START_S) == 2, served.text
    served.remember()
    assert str(port) in served.text
    summary = json.loads((project / "runs" / "latest" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("failed", 2)
    assert str(port) in summary["reason"]


def test_machines_elsewhere_are_the_playbook_s(project: Path) -> None:
    _, folder = save("gpt2", project / "tiny")
    (project / "inventory" / "own.smol.yml").write_text("schema: 1\nname: own\nmachines: {mini1: {}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "smolcluster", "serve", "-i", "inventory/own.smol.yml", "--model", str(folder)],
        cwd=project, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "mini1 is reached over the network, and this command only serves on this machine" in done.stderr
    assert "ansible-playbook inference.yml" in done.stderr
    assert not (project / "runs").exists()
