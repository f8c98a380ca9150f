"""A small model to serve by playbook, and how it is asked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from ansible_lab import Cluster

from smolcluster.jobs.bootservice import BootService, write_note
from smolcluster.runtime.runfolder import RunFolder, ServingNote
from tests.infer import infer_models

PORTS = ("web_interface.api_port=0", "web_interface.frontend_port=0")
PROMPT = "the cat sat on the"
TOKENS = 8


@dataclass(frozen=True)
class Tiny:
    """A Llama with random weights in a folder, and how it goes on with PROMPT, by transformers."""

    folder: Path
    answer: str


def make_tiny(folder: Path) -> Tiny:
    model, _ = infer_models.save("llama", folder)
    tokenizer = infer_models.small_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    said = infer_models.generate(model, tokenizer.encode(PROMPT).ids, TOKENS)
    return Tiny(folder, tokenizer.decode(said))


def ask(url: str, prompt: str) -> str:
    """The greedy continuation, from the API."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=60) as response:
        name = json.load(response)["data"][0]["id"]
    body = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        text: str = json.load(response)["choices"][0]["text"]
    return text


def ready(folder: RunFolder, since: float, within_s: float = 300.0) -> str:
    """Where the API is, once it has said after `since` that it is ready."""
    end, pause = time.monotonic() + within_s, threading.Event()
    while True:
        for path in folder.path.glob("nodes/*/rank-*/serving.json"):
            note = ServingNote.model_validate_json(path.read_bytes())
            if note.time > since and note.state == "ready":
                return note.urls["api"]
        assert time.monotonic() < end, "the API is not ready"
        pause.wait(0.2)


def rank_of(cluster: Cluster, rank: int) -> psutil.Process:
    (found,) = [each for each in cluster.processes() if each.cmdline()[-2:] == ["--rank", str(rank)]]
    return found


@contextmanager
def booted(folder: RunFolder, nodes: Sequence[str], notes: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """What services start after a power cut, of each node, in that order; all of it has ended afterwards."""
    for node in nodes:
        write_note(
            BootService(
                run_id=folder.path.name, run_dir=str(folder.path), node=node, kind="linux", name=node, system=False,
                files={str(notes / node): ""}, end=(sys.executable, "-c", ""),
            )
        )  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    try:
        for node in nodes:
            command = [sys.executable, "-m", "smolcluster.supervisor", str(folder.node(node) / "node.yaml"), "--boot"]
            with folder.supervisor_log(node).open("ab") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder.path))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
