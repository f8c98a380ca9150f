"""train.yml on the home cluster: the documentation's cluster blocks, word for word, at the speeds of the wires.

What the blocks leave open is the lab's inventory. The model is the guide's, made small by override: two cores train it.
The Windows PC of two blocks is played by a plain Linux member of the Wi-Fi.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Iterator

import pytest

from smolcluster.runtime.metricsfile import StepRecord
from tests.steps import read_metrics

from . import Lab
from .configured import configure
from .disk import USER
from .listening import Listener
from .training import BLOCKS, ROOT, SMALL, STEPS, Trained, cables, call, inside, inventory_of, train

# A play takes half a minute; on a machine that is busy with other tests several.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

_MINIS = ("mini1", "mini2", "mini3")
# The server first, then the workers in the order of the blocks.
_STAR = ("mini1", "pi5", "win", "macbook")
_THUNDERBOLT_MBPS = 10_000.0
_SSH = 22
# As the kernel hands them on between hosts of a lab.
_LARGEST_PACKET_BYTES = 65_536
# A model of 19 million parameters, six layers in three stages.
_LARGE = (
    "model.num_layers=6",
    "model.model_dim=512",
    "model.num_heads=4",
    "model.ff_dim=2048",
    "model.max_seq_len=16",
    "training.batch_size=3",
    "training.grad_accumulation=3",
    "training.eval_steps=100",
    "training.learning_rate=1e-4",
)
_LIMIT_MIB = 610
# What the bridges of Macs and the hosts' own kernels say to each other in the time of a run, on a cable without ranks.
_CHATTER_BYTES = 20_000


@pytest.fixture(scope="module")
def home(lab: Lab) -> Iterator[Lab]:
    """The home cluster with its network set up, the Macs' cables shaped too, and its inventory on the controller."""
    configure(lab)
    for cable in cables(lab, "thunderbolt"):
        cable.speed(_THUNDERBOLT_MBPS)
    # As on a Pi that is meant to train unattended: its user's services outlive a login.
    lab.host("pi5").run(["loginctl", "enable-linger", USER])
    lab.controller.write(inventory_of(lab), lab.inventory(), owner=USER)
    yield lab
    for cable in cables(lab, "thunderbolt"):
        cable.speed(None)


def _train_block(home: Lab, nodes: tuple[str, ...], strategy: str, *settings: str) -> Trained:
    """A block of the documentation, as it stands there."""
    files = (f"cluster_config={BLOCKS}/cluster_config_{strategy}.yaml", f"config={BLOCKS}/gpt_config.yaml")
    return train(home, nodes, strategy, *files, settings=(*SMALL, *settings))


@pytest.fixture(scope="module")
def alone(home: Lab) -> tuple[StepRecord, ...]:
    """The same training in one process, with the batch of all ranks."""
    told = call(
        home,
        *("python", "-m", "smolcluster.train", "--strategy", "single"),
        *("-i", inventory_of(home), "--nodes", home.controller.name, "--dataset", "pydoc"),
        *("--override", ",".join((*SMALL, "training.batch_size=6"))),
    )
    assert told.returncode == 0, told.stdout + told.stderr
    (metrics,) = inside(home, ROOT / "runs").glob("latest/nodes/*/rank-0/metrics.jsonl")
    return read_metrics(metrics)[0]


def _assert_equal_to_one_process(run: Trained, alone: tuple[StepRecord, ...]) -> None:
    assert len(alone) == STEPS
    for rank in range(len(run.nodes)):
        mine = run.steps(rank)
        assert [record.step for record in mine] == [record.step for record in alone]
        for record, other in zip(mine, alone, strict=True):
            assert record.loss == pytest.approx(other.loss, abs=1e-5)
            assert record.val_loss == pytest.approx(other.val_loss, abs=1e-5)


def _assert_contract(run: Trained, lab: Lab, strategy: str, transport: str = "smol", steps: int = STEPS) -> None:
    """What a completed run leaves behind on the controller, and what it does not take from the nodes."""
    told = json.loads((run.folder / "summary.json").read_text())
    assert (told["status"], told["exit_code"], told["steps"]) == ("completed", 0, steps)
    assert told["world_size"] == len(run.nodes)
    plan = json.loads((run.folder / "plan.json").read_text())
    assert (plan["transport"], plan["run"]["strategy"]) == (transport, strategy)
    for name in ("model/config.json", "model/model.safetensors", f"checkpoints/step-{steps:08d}.json"):
        assert (run.folder / name).is_file()
    assert {path.suffix for path in (run.folder / "plots").iterdir()} == {".svg", ".png"}
    assert (run.folder.parent / "latest").readlink() == run.folder.relative_to(run.folder.parent)
    secret = (run.folder / "secret").read_text()
    assert secret not in run.text
    for rank, node in enumerate(run.nodes):
        assert (run.folder / "nodes" / node / "supervisor.txt").is_file()
        assert (run.folder / "nodes" / node / f"rank-{rank}" / "log.txt").is_file()
        # The controller's own part lies where the run is collected.
        runs = ROOT / "runs" if node == lab.controller.name else f"{lab.host(node).home}/.smolcluster/runs"
        there = f"{runs}/{run.folder.name}"
        assert lab.host(node).run(["stat", "-c", "%a", f"{there}/secret"]).stdout == "600\n"
        assert lab.host(node).run(["pgrep", "-f", run.folder.name], check=False).stdout == ""


def _assert_shown(run: Trained) -> None:
    """Every node's last step was printed."""
    for node in run.nodes:
        assert f"{node}  step 8/8" in re.sub(" +step", "  step", run.text)


def _assert_listens_where_planned(run: Trained, lab: Lab) -> None:
    """Each rank on the addresses of its plan and nowhere else; supervisors on loopback; only sshd everywhere."""
    ranks = json.loads((run.folder / "plan.json").read_text())["ranks"]
    on_wifi = {f"{name}.local": lab.wiring.wifi_address(name) or "" for name in lab.hosts}
    for rank, node in zip(ranks, run.nodes, strict=True):
        assert rank["node"] == node
        seen = run.listeners[node]
        assert {each.port for each in seen if each.everywhere} == {_SSH}
        outward = {each for each in seen if not each.everywhere and not ipaddress.ip_address(each.address).is_loopback}
        assert outward == {Listener(on_wifi.get(name, name), rank["port"]) for name in rank["listen"]}


def _assert_on_the_macs_cables_only(run: Trained, lab: Lab) -> None:
    """Each mini listened on the address and port that the block gives it, and nowhere else that others can reach."""
    ports = [each["port"] for each in json.loads((run.folder / "plan.json").read_text())["ranks"]]
    _assert_listens_where_planned(run, lab)
    for number, (node, port) in enumerate(zip(run.nodes, ports, strict=True), 1):
        outward = {each for each in run.listeners[node] if each.port not in (_SSH,) and each.address[:4] != "127."}
        assert outward == {Listener(f"10.10.0.{number}", port)}


def _assert_carried(carried: int, payload: int) -> None:
    """All of these bytes passed the cable, and not much besides them: headers, acknowledgements, heartbeats."""
    assert 0.98 * payload < carried < 1.25 * payload + 200_000


@pytest.mark.parametrize("strategy", ["fsdp", pytest.param("classicdp", marks=pytest.mark.soak)])
def test_every_mini_computes_a_share_over_the_macs_cables(
    home: Lab, alone: tuple[StepRecord, ...], strategy: str
) -> None:
    # Equal to one process is what is strictly synchronous.
    run = _train_block(home, _MINIS, strategy, "training.batch_size=2", "staleness_bound=0")
    _assert_contract(run, home, strategy)
    _assert_shown(run)
    _assert_equal_to_one_process(run, alone)
    _assert_on_the_macs_cables_only(run, home)
    # A ring on a chain of cables: what mini3 sends to mini1 passes both.
    one, two, three = (result.wire_bytes_out for result in run.results())
    assert min(one, two, three) > 1_000_000
    _assert_carried(run.carried["mini1", "mini2"], one + three)
    _assert_carried(run.carried["mini2", "mini3"], two + three)
    # mini2 bridges: nobody routes.
    assert sum(run.forwarded[node] for node in run.nodes) < 50


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["fsdp", "classicdp"])
def test_minis_may_be_five_steps_apart_as_the_guide_has_it(home: Lab, strategy: str) -> None:
    run = _train_block(home, _MINIS, strategy, "training.batch_size=2")
    _assert_contract(run, home, strategy)
    _assert_on_the_macs_cables_only(run, home)
    assert json.loads((run.folder / "plan.json").read_text())["run"]["staleness_bound"] == 5
    assert 0 <= json.loads((run.folder / "summary.json").read_text())["staleness_max"] <= 5
    # Losses are measured at fences: there all ranks are equal.
    measured = [[record.val_loss for record in run.steps(rank)] for rank in range(len(run.nodes))]
    assert measured[0] == measured[1] == measured[2]
    losses = [loss for loss in measured[0] if loss is not None]
    assert losses[-1] < losses[0]


@pytest.mark.soak
def test_every_mini_computes_its_layers_over_the_macs_cables(home: Lab, alone: tuple[StepRecord, ...]) -> None:
    run = _train_block(home, _MINIS, "mp", "training.batch_size=6")
    _assert_contract(run, home, "mp")
    _assert_equal_to_one_process(run, alone)
    _assert_on_the_macs_cables_only(run, home)
    assert json.loads((run.folder / "plan.json").read_text())["stages"] == [[0, 1], [1, 2], [2, 3]]
    one, two, three = (result.wire_bytes_out for result in run.results())
    # Hidden states go to a neighbour; what the ends say to each other (a tied embedding, the model) passes both cables.
    assert max(one, two) < run.carried["mini1", "mini2"]
    assert max(two, three) < run.carried["mini2", "mini3"]
    assert run.carried["mini1", "mini2"] + run.carried["mini2", "mini3"] < 2.5 * (one + two + three) + 400_000
    assert sum(run.forwarded[node] for node in run.nodes) < 50


@pytest.mark.parametrize("strategy", ["edp", pytest.param("syncps", marks=pytest.mark.soak)])
def test_a_server_on_a_mini_and_workers_of_all_kinds(home: Lab, strategy: str) -> None:
    steps = 3 * STEPS
    run = _train_block(home, _STAR, strategy, "training.batch_size=2", f"training.max_steps={steps}")
    _assert_contract(run, home, strategy, steps=steps)
    _assert_listens_where_planned(run, home)
    losses = [record.loss for record in run.steps()]
    assert len(losses) == steps
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    told = json.loads((run.folder / "summary.json").read_text())
    # Three workers' two samples a step, each of them in exactly one, and every gradient accounted for.
    account = told["gradients"]
    assert account["samples_applied"] == steps * 3 * 2
    assert account["pushed"] == account["applied"] + sum(account["refused"].values())
    # Where the inventory's wires differ from the guide's host_ip that is said, and the inventory is believed.
    for node in ("win", "macbook"):
        assert f"host_ip.{node}: said 10.10.0.1, taken: mini1.local" in " ".join(run.text.split())
    assert "host_ip.pi5" not in run.text
    ranks = json.loads((run.folder / "plan.json").read_text())["ranks"]
    assert [rank["peers"]["0"] for rank in ranks[1:]] == ["192.168.50.1", "mini1.local", "mini1.local"]
    # Nobody waits for another worker in edp: who comes when all samples are leased has only been told that.
    _, *workers = run.results()
    assert all(one.wire_bytes_out + one.wire_bytes_in > (100_000 if one.steps else 1_000) for one in workers)
    assert strategy == "edp" or all(one.steps for one in workers)
    pi, win, macbook = workers
    # The Pi's cable and the Wi-Fi carry Ansible's connection too; the Macs' cables carry nothing of it all.
    assert run.carried["mini1", "pi5"] > 0.98 * (pi.wire_bytes_out + pi.wire_bytes_in)
    for name, result in (("win", win), ("macbook", macbook)):
        assert run.carried[(name,)] > 0.98 * (result.wire_bytes_out + result.wire_bytes_in)
    assert run.carried["mini1", "mini2"] + run.carried["mini2", "mini3"] < _CHATTER_BYTES


def test_classicdp_with_a_pi_behind_a_mac(home: Lab, alone: tuple[StepRecord, ...]) -> None:
    nodes = ("mini1", "mini2", "pi5")
    settings = (*SMALL, "training.batch_size=2", "staleness_bound=0")
    run = train(home, nodes, "classicdp", f"nodes={','.join(nodes)}", settings=settings)
    _assert_contract(run, home, "classicdp")
    _assert_shown(run)
    _assert_equal_to_one_process(run, alone)
    _assert_listens_where_planned(run, home)
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


@pytest.mark.soak
def test_a_model_that_no_mini_has_room_for_is_trained_by_three(home: Lab) -> None:
    """Python, torch and links take some 280 MiB of the limit. A rank of three needs 101 besides, a third of the model's
    parameters, gradients and moments; when it saves, three quarters of that again, and as rank 0 all parameters.
    """
    text = f"{home.controller.home}/text.txt"
    home.controller.write(text, "the quick brown fox jumps over a lazy dog\n" * 300, owner=USER)
    given = (f"dataset={text}", "max_restarts=0")
    small = tuple(each for each in SMALL if each.partition("=")[0] not in {part.partition("=")[0] for part in _LARGE})
    settings = (*small, *_LARGE)
    for name in _MINIS:
        home.host(name).memory(_LIMIT_MIB * 2**20)
    try:
        one = train(home, _MINIS[:1], "single", "nodes=mini1", *given, settings=settings, fails=True)
        run = train(home, _MINIS, "mp", f"cluster_config={BLOCKS}/cluster_config_mp.yaml", *given, settings=settings)
    finally:
        for name in _MINIS:
            home.host(name).memory(None)
    assert "mini1  failed: rank 0: not enough memory" in one.text
    assert json.loads((one.folder / "summary.json").read_text())["status"] == "failed"
    _assert_contract(run, home, "mp")
    losses = [record.loss for record in run.steps()]
    assert losses[-1] < losses[0]
    assert (run.folder / "model" / "model.safetensors").stat().st_size > 76_000_000

    # Where the inventory says what the machines have, the plan says so before anything is started.
    content = json.loads(home.inventory())
    for name in _MINIS:
        content["machines"][name]["memory_mb"] = 1024
    told = f"{home.controller.home}/small.smol.yml"
    home.controller.write(told, json.dumps(content), owner=USER)
    # For the plan a rank of a chain takes some 400 MB besides its layers.
    larger = ",".join((*settings, "model.model_dim=1024", "model.ff_dim=4096"))
    flags = ("python", "-m", "smolcluster", "plan", "-i", told, "--dataset", text, "--override", larger)
    refused = call(home, *flags, "--strategy", "single", "--nodes", "mini1")
    assert refused.returncode == 2
    assert (
        "machines.mini1.memory_mb: the model's state needs 1158 MB there and its process 240, and it has 1024"
        in refused.stderr
    )
    assert "--strategy mp, which splits the layers over" in refused.stderr
    shared = call(home, *flags, "--strategy", "mp", "--nodes", ",".join(_MINIS))
    assert shared.returncode == 0, shared.stderr
