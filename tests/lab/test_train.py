"""train.yml on the home cluster: over the Macs' cables, and through a Mac to a Pi, at the speeds of the wires.

The hosts share this machine's Python environment and the project, read through an overlay of their own (what they write
stays in the lab): how a machine gets those is setup.yml's business, not the network's.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import RankResult, RunFolder
from tests.steps import read_metrics

from . import Host, Lab, Link
from .configured import configure
from .disk import USER

# A play takes half a minute; on a machine that is busy with other tests several.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

_ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_STEPS = 8
_SETTINGS = (
    "model.num_layers=2",
    "model.model_dim=64",
    "model.num_heads=2",
    "model.ff_dim=128",
    "model.max_seq_len=32",
    "model.dropout=0",
    "training.eval_steps=4",
    "lr_schedule.warmup_iters=2",
    "data.tokenizer=bpe:300",
    f"training.max_steps={_STEPS}",
)
# A busy machine's nodes are waited for.
_PATIENCE = ("ship_lease_s=150", "follow_answer_s=150")
_THUNDERBOLT_MBPS = 10_000.0
_SSH = 22
# As the kernel hands them on between hosts of a lab.
_LARGEST_PACKET_BYTES = 65_536


@dataclass(frozen=True)
class Listener:
    """A TCP socket in state LISTEN."""

    address: str
    port: int

    @property
    def everywhere(self) -> bool:
        return ipaddress.ip_address(self.address).is_unspecified


class Watch:
    """What listens on each host, looked at again and again while the context is open."""

    def __init__(self, hosts: list[Host]) -> None:
        self.seen: dict[str, set[Listener]] = {host.name: set() for host in hosts}
        self._hosts = hosts
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.2):
            for host in self._hosts:
                self.seen[host.name] |= _listeners(host)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def _listeners(host: Host) -> set[Listener]:
    """What listens in a host's network namespace now."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{host.pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                address, port = local.split(":")
                found.add(Listener(_address(address), int(port, 16)))
    return found


def _address(text: str) -> str:
    """An address as /proc/net/tcp writes it: words of four bytes, each in the machine's order."""
    words = [struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8)]
    packed = b"".join(words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


@dataclass
class Trained:
    """A finished run: what was printed, its folder as this process sees it, bytes by cable, what listened."""

    text: str
    folder: Path
    nodes: tuple[str, ...]
    carried: dict[tuple[str, ...], int]
    forwarded: dict[str, int]
    listeners: dict[str, set[Listener]]

    def results(self) -> list[RankResult]:
        run = RunFolder(self.folder)
        return [
            RankResult.model_validate_json(run.result(node, rank).read_bytes()) for rank, node in enumerate(self.nodes)
        ]

    def steps(self, rank: int = 0) -> tuple[StepRecord, ...]:
        return read_metrics(RunFolder(self.folder).metrics(self.nodes[rank], rank))[0]


@pytest.fixture(scope="module")
def home(lab: Lab) -> Iterator[Lab]:
    """The home cluster with its network set up, the Macs' cables shaped too, and its inventory on the controller."""
    configure(lab)
    for cable in _cables(lab, "thunderbolt"):
        cable.speed(_THUNDERBOLT_MBPS)
    # As on a Pi that is meant to train unattended: its user's services outlive a login.
    lab.host("pi5").run(["loginctl", "enable-linger", USER])
    lab.controller.write(f"{lab.controller.home}/lab.smol.yml", lab.inventory(), owner=USER)
    yield lab
    for cable in _cables(lab, "thunderbolt"):
        cable.speed(None)


def _cables(lab: Lab, network: str) -> list[Link]:
    return [link for link in lab.links if link.segment.network == network]


def _inside(lab: Lab, path: Path) -> Path:
    """A file of the controller as this process sees it."""
    return Path(f"/proc/{lab.controller.pid}/root{path}")


def _call(lab: Lab, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of the project, called in its folder on the controller."""
    environment = {"ANSIBLE_CONFIG": str(_ROOT / "ansible.cfg"), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    full = ["env", "-C", str(_ROOT), str(_BIN / command[0]), *command[1:]]
    return lab.controller.run(full, user=USER, check=False, timeout=600, environment=environment)


def _forwarded(host: Host) -> int:
    """IP packets that a host has passed on for others."""
    names, values = (
        line.split() for line in Path(f"/proc/{host.pid}/net/snmp").read_text().splitlines() if line[:4] == "Ip: "
    )
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


def _train(lab: Lab, nodes: tuple[str, ...], strategy: str) -> Trained:
    """train.yml on those nodes, to its end."""
    cables = {
        tuple(port.host for port in link.ports): link
        for network in ("thunderbolt", "ethernet_pi5")
        for link in _cables(lab, network)
    }
    variables = (f"strategy={strategy}", f"nodes={','.join(nodes)}", "dataset=pydoc", *_PATIENCE)
    settings = ",".join((*_SETTINGS, "training.batch_size=2", "staleness_bound=0"))
    flags = [part for each in (*variables, f"override={settings}") for part in ("-e", each)]
    before = {ends: link.carried_bytes() for ends, link in cables.items()}
    forwarded = {name: _forwarded(host) for name, host in lab.hosts.items()}
    with Watch([lab.host(name) for name in nodes]) as watch:
        done = _call(lab, "ansible-playbook", "train.yml", "-i", f"{lab.controller.home}/lab.smol.yml", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    match = re.search(r"^Run (\S+)$", done.stdout, re.MULTILINE)
    assert match, done.stdout
    return Trained(
        done.stdout,
        _inside(lab, _ROOT / "runs" / match[1]),
        nodes,
        {ends: link.carried_bytes() - before[ends] for ends, link in cables.items()},
        {name: _forwarded(host) - forwarded[name] for name, host in lab.hosts.items()},
        watch.seen,
    )


@pytest.fixture(scope="module")
def alone(home: Lab) -> tuple[StepRecord, ...]:
    """The same training in one process, with the batch of all ranks."""
    settings = ",".join((*_SETTINGS, "training.batch_size=6"))
    where = ("-i", f"{home.controller.home}/lab.smol.yml", "--nodes", home.controller.name)
    told = _call(
        home,
        *("python", "-m", "smolcluster.train", "--strategy", "single", *where),
        *("--dataset", "pydoc", "--override", settings),
    )
    assert told.returncode == 0, told.stdout + told.stderr
    (metrics,) = _inside(home, _ROOT / "runs").glob("latest/nodes/*/rank-0/metrics.jsonl")
    return read_metrics(metrics)[0]


def _assert_equal_to_one_process(run: Trained, alone: tuple[StepRecord, ...]) -> None:
    assert len(alone) == _STEPS
    for rank in range(len(run.nodes)):
        mine = run.steps(rank)
        assert [record.step for record in mine] == [record.step for record in alone]
        for record, other in zip(mine, alone, strict=True):
            assert record.loss == pytest.approx(other.loss, abs=1e-5)
            assert record.val_loss == pytest.approx(other.val_loss, abs=1e-5)


def _assert_contract(run: Trained, lab: Lab, strategy: str) -> None:
    """What a completed run leaves behind on the controller, and what it does not take from the nodes."""
    told = json.loads((run.folder / "summary.json").read_text())
    assert (told["status"], told["exit_code"], told["steps"]) == ("completed", 0, _STEPS)
    assert told["world_size"] == len(run.nodes)
    plan = json.loads((run.folder / "plan.json").read_text())
    assert (plan["transport"], plan["run"]["strategy"]) == ("smol", strategy)
    for name in ("model/config.json", "model/model.safetensors", "checkpoints/step-00000008.json"):
        assert (run.folder / name).is_file()
    assert {path.suffix for path in (run.folder / "plots").iterdir()} == {".svg", ".png"}
    assert (run.folder.parent / "latest").readlink() == Path(run.folder.name)
    secret = (run.folder / "secret").read_text()
    assert secret not in run.text
    for rank, node in enumerate(run.nodes):
        assert f"{node}  step 8/8" in re.sub(" +step", "  step", run.text)
        assert (run.folder / "nodes" / node / "supervisor.txt").is_file()
        assert (run.folder / "nodes" / node / f"rank-{rank}" / "log.txt").is_file()
        there = f"{lab.host(node).home}/.smolcluster/runs/{run.folder.name}"
        assert lab.host(node).run(["stat", "-c", "%a", f"{there}/secret"]).stdout == "600\n"
        assert lab.host(node).run(["pgrep", "-f", run.folder.name], check=False).stdout == ""


def _assert_listens_where_planned(run: Trained) -> None:
    """Each rank on the addresses of its plan and nowhere else; supervisors on loopback; only sshd everywhere."""
    ranks = json.loads((run.folder / "plan.json").read_text())["ranks"]
    for rank, node in zip(ranks, run.nodes, strict=True):
        assert rank["node"] == node
        seen = run.listeners[node]
        assert {each.port for each in seen if each.everywhere} == {_SSH}
        outward = {each for each in seen if not each.everywhere and not ipaddress.ip_address(each.address).is_loopback}
        assert outward == {Listener(address, rank["port"]) for address in rank["listen"]}


def _assert_carried(carried: int, payload: int) -> None:
    """All of these bytes passed the cable, and not much besides them: headers, acknowledgements, heartbeats."""
    assert 0.98 * payload < carried < 1.25 * payload + 200_000


def test_fsdp_over_the_macs_cables(home: Lab, alone: tuple[StepRecord, ...]) -> None:
    run = _train(home, ("mini1", "mini2", "mini3"), "fsdp")
    _assert_contract(run, home, "fsdp")
    _assert_equal_to_one_process(run, alone)
    _assert_listens_where_planned(run)
    assert [
        sorted(each.address for each in run.listeners[node] if each.address[:3] == "10.") for node in run.nodes
    ] == [
        ["10.10.0.1"],
        ["10.10.0.2"],
        ["10.10.0.3"],
    ]
    # A ring on a chain of cables: what mini3 sends to mini1 passes both.
    one, two, three = (result.wire_bytes_out for result in run.results())
    assert min(one, two, three) > 1_000_000
    _assert_carried(run.carried["mini1", "mini2"], one + three)
    _assert_carried(run.carried["mini2", "mini3"], two + three)
    # mini2 bridges: nobody routes.
    assert sum(run.forwarded[node] for node in run.nodes) < 50


def test_classicdp_with_a_pi_behind_a_mac(home: Lab, alone: tuple[StepRecord, ...]) -> None:
    run = _train(home, ("mini1", "mini2", "pi5"), "classicdp")
    _assert_contract(run, home, "classicdp")
    _assert_equal_to_one_process(run, alone)
    _assert_listens_where_planned(run)
    assert Listener("192.168.50.2", 65432) in run.listeners["pi5"]
    one, two, pi = (result.wire_bytes_out for result in run.results())
    assert min(one, two, pi) > 1_000_000
    # What mini2 sends to the Pi leaves it on the Thunderbolt cable and is passed on by mini1.
    _assert_carried(run.carried["mini1", "mini2"], one + two)
    # The Pi's cable carries Ansible's connection too.
    assert run.carried["mini1", "pi5"] > 0.98 * (two + pi)
    assert run.forwarded["mini1"] * _LARGEST_PACKET_BYTES > two
    # A real systemd has started the Pi's part.
    told = home.host("pi5").run(["journalctl", "--quiet", "--output=cat", "--grep", run.folder.name]).stdout
    assert f"Started smolcluster-{run.folder.name}-pi5-0.service" in told
