"""inference.yml -e on_boot=true on a Mac and a Pi: the power fails, and the model is served again by itself."""

from __future__ import annotations

import json
import re
import shutil
import site
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infer import infer_models

from . import Lab
from .configured import configure
from .disk import USER
from .host import Host
from .training import ROOT, call, inside, inventory_of

# The power is cut twice, and each time two machines load torch anew.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]

# A busy machine's nodes are waited for.
_PATIENCE = ("ship_lease_s=150", "follow_answer_s=150")
_PROMPT, _TOKENS = "the cat sat on the", 8
_NODES = ("mini1", "pi5")
_PORTS = "web_interface.api_port=8000,web_interface.frontend_port=8001"
# Asked on the API's own machine, where no key has to be shown on a command line.
_ASK = f"""
import json, os, sys, urllib.request
url, key_file = sys.argv[1:]
head = {{"Content-Type": "application/json"}}
if os.path.exists(key_file):
    head["Authorization"] = "Bearer " + open(key_file).read().strip()
def get(path, body=None):
    asked = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, head)
    return json.load(urllib.request.urlopen(asked, timeout=60))
name = get("/v1/models")["data"][0]["id"]
body = {{"model": name, "prompt": {_PROMPT!r}, "max_tokens": {_TOKENS}, "temperature": 0}}
print(json.dumps(get("/v1/completions", body)["choices"][0]["text"]))
"""


@dataclass(frozen=True)
class Tiny:
    """A model with random weights in the controller's folder, and its greedy answer, by transformers."""

    folder: str
    answer: str


@pytest.fixture(scope="module")
def home(namespaces: None) -> Iterator[Lab]:
    """A Mac with a Raspberry Pi on its cable, and the controller; all with this project's code."""
    with Lab() as lab:
        for host in lab.hosts.values():
            # Whichever checkout the environment was made for.
            host.write(f"{site.getsitepackages()[0]}/000-lab.pth", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n")
        configure(lab)
        lab.controller.write(inventory_of(lab), lab.inventory(), owner=USER)
        yield lab


@pytest.fixture(scope="module")
def tiny(home: Lab, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The model lies on the controller only."""
    folder, there = tmp_path_factory.mktemp("tiny"), f"{home.controller.home}/tiny"
    model, _ = infer_models.save("llama", folder)
    tokenizer = infer_models.small_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    said = infer_models.generate(model, tokenizer.encode(_PROMPT).ids, _TOKENS)
    shutil.copytree(folder, inside(home, Path(there)))
    home.controller.run(["chown", "-R", USER, there])
    return Tiny(there, tokenizer.decode(said))


def serve(home: Lab, tiny: Tiny, *more: str) -> str:
    """inference.yml -e on_boot=true until it serves; the run's id."""
    given = (
        f"model={tiny.folder}",
        f"nodes={','.join(_NODES)}",
        "on_boot=true",
        f"override={_PORTS}",
        *_PATIENCE,
        *more,
    )
    flags = [part for each in given for part in ("-e", each)]
    done = call(home, "ansible-playbook", "inference.yml", "-i", inventory_of(home), *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "power cut  it is served again whenever they start" in done.stdout
    match = re.search(r"^Run (\S+)$", done.stdout, re.MULTILINE)
    assert match, done.stdout
    return match[1]


def play(home: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return call(home, "ansible-playbook", words[0], "-i", inventory_of(home), *words[1:])


def work(host: Host, run_id: str) -> str:
    return f"{host.home}/.smolcluster/runs/{run_id}"


def answer(home: Lab, run_id: str, within_s: float = 600.0) -> str:
    """What the model says, as soon as it says something."""
    host = home.host(_NODES[0])
    plan = json.loads(host.read(f"{work(host, run_id)}/plan.json"))
    assert plan["ranks"][plan["api"]["rank"]]["node"] == host.name
    url = f"http://{plan['api']['listen'][0]}:{plan['api']['api_port']}"
    end, pause = time.monotonic() + within_s, threading.Event()
    while True:
        asked = host.run(["python3", "-c", _ASK, url, f"{work(host, run_id)}/api_key"], check=False, timeout=120)
        if asked.returncode == 0:
            return str(json.loads(asked.stdout))
        assert time.monotonic() < end, asked.stderr + logs(home, run_id)
        pause.wait(1.0)


def logs(home: Lab, run_id: str) -> str:
    script = 'tail -n 40 "$0"/nodes/*/supervisor.txt "$0"/nodes/*/rank-*/log.txt'
    told = [home.host(name).run(["sh", "-c", script, work(home.host(name), run_id)], check=False) for name in _NODES]
    return "".join(one.stdout for one in told)


def cut_power(home: Lab) -> None:
    """All at once. The controller stays off when the others come back."""
    for name in (home.controller.name, *_NODES):
        home.switch_off(name)
    home.switch_on(*_NODES)


def services(home: Lab) -> dict[str, list[str]]:
    """What each host would start by itself, of ours."""
    script = (
        "ls /Library/LaunchDaemons /etc/systemd/system /etc/systemd/system/multi-user.target.wants "
        f"{{/home,/Users}}/{USER}/.config/systemd/user/default.target.wants 2>/dev/null | grep smolcluster.boot; true"
    )
    return {name: home.host(name).run(["bash", "-c", script]).stdout.split() for name in _NODES}


def test_after_a_power_cut_the_model_is_served_again_without_a_controller(home: Lab, tiny: Tiny) -> None:
    bare = services(home)
    # A Pi's user whose services outlive a login has a unit of their own; a Mac's daemon is an administrator's.
    home.host("pi5").run(["loginctl", "enable-linger", USER])
    run_id = serve(home, tiny, "run_id=first")
    assert answer(home, run_id) == tiny.answer
    assert {name: len(files) for name, files in services(home).items()} == {"mini1": 1, "pi5": 1}

    cut_power(home)
    assert answer(home, run_id) == tiny.answer
    home.switch_on(home.controller.name)

    # It is shown and it holds the nodes, as any run; stopped, it is not served any more, and nothing of it is left.
    shown = play(home, "status.yml")
    assert shown.stdout.count("served again when the machine starts") == 2, shown.stdout + shown.stderr
    busy = play(home, "train.yml", "-e", f"nodes={','.join(_NODES)}", "-e", "strategy=fsdp")
    assert busy.returncode == 2
    assert "the run first is active on mini1, pi5" in busy.stdout + busy.stderr
    stopped = play(home, "stop.yml")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    for name in _NODES:
        assert f"{name}: stopped first" in stopped.stdout
        assert f"{name}: first is not served any more when the machine starts" in stopped.stdout
        assert home.host(name).run(["pgrep", "-f", "smolcluster.supervisor"], check=False).stdout == ""
    assert services(home) == bare
    assert "No run is active." in play(home, "stop.yml").stdout
