"""Tablets in the plan of a served model: the guide's hybrid cluster, and what cannot be of a tablet."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.plan.render import node_config
from smolcluster.plan.serve import make_serve_plan
from smolcluster.plan.stages import STAGE_BASE_MB, TABLET_BASE_MB
from smolcluster.plan.types import ServePlan, TabletPlan
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.served import ModelFolder
from smolcluster.spec.serving import resolve_serving

from .conftest import FIXTURES, HOME
from .model_folders import GPT2, model_folder
from .serving_plans import Write, asked, planned, refused

# A laptop, a mini and a tablet that opens a page; everybody is reached by name.
LAN = """\
schema: 1
name: lan
machines:
  laptop: {kind: linux, host: laptop.local, memory_mb: 8192}
  mini1: {memory_mb: 8192}
  ipad: {host: ipad.local, memory_mb: 3000}
defaults:
  stages: [{host: laptop, layers: "0:4"}, {host: ipad, layers: "4:8"}, {host: mini1, layers: "8:12"}]
"""


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "gpt2", GPT2)


def test_the_guides_hybrid_cluster(gpt2: Path) -> None:
    plan = planned(gpt2, asked(HOME, cluster_config=FIXTURES / "cluster_config_inference.yaml"))
    got = [(rank.rank, rank.node, plan.machine(rank.rank), rank.role, rank.device, rank.port) for rank in plan.ranks]
    assert got == [
        (0, "mini1", "mini1", "stage", "auto", 65432),
        (1, "mini1", "ipad", "stage", "cpu", 65433),
        (2, "mini2", "mini2", "stage", "auto", 65432),
        (3, "macbook", "macbook", "api", "cpu", 0),
    ]
    assert [(stage.start, stage.stop) for stage in plan.stages] == [(0, 4), (4, 8), (8, 12)]
    # Rank 0's machine dials the app at the inventory's address; nobody needs to reach the tablet otherwise.
    assert plan.tablets == {1: TabletPlan(node="ipad", app="native", host="172.20.10.3", port=8000, precision="fp16")}
    assert plan.tablets[1].format == "coreml"
    assert plan.ranks[1].peers == {0: "127.0.0.1", 2: "10.10.0.2"}
    assert (plan.ranks[1].local_rank, plan.ranks[1].threads) == (1, 1)
    # Half the bytes of fp32, no tables, and an app.
    layer = 2 * 12 * 768 * 768
    cache = 2 * 2 * 768 * plan.serve.cache_tokens
    assert plan.stages[1].need_mb == TABLET_BASE_MB + -(-4 * (layer + cache) // 2**20)
    assert "ipad: its hidden states cross wifi authenticated but not encrypted" in plan.notes
    assert ServePlan.model_validate_json(plan.to_json()) == plan
    # The guide's own port is that of the app alone.
    assert [stage.port for stage in plan.serve.stages] == [65432, 8000, 65432]


def test_the_home_inventory_needs_no_other_file(gpt2: Path) -> None:
    plan = planned(gpt2, asked(HOME))
    assert plan.tablets[1].port == 8000
    cluster = load_inventory(HOME)
    assert node_config(plan, cluster.node("mini1")).ranks == (0, 1)
    assert "tablet" not in planned(gpt2, asked(HOME, nodes=("mini1", "mini2"))).to_json().replace("tablet_wait", "")


def test_a_tablet_without_a_fixed_address_opens_a_page(gpt2: Path, written: Write) -> None:
    plan = planned(gpt2, asked(written("lan.smol.yml", LAN)))
    assert plan.tablets == {1: TabletPlan(node="ipad", app="browser", host="laptop.local", port=8000, precision="fp32")}
    assert plan.tablets[1].format == "onnx"
    # The layers go as fp32.
    layer = 4 * 12 * 768 * 768
    cache = 4 * 2 * 768 * plan.serve.cache_tokens
    assert plan.stages[1].need_mb == TABLET_BASE_MB + -(-4 * (layer + cache) // 2**20)
    assert [rank.node for rank in plan.ranks] == ["laptop", "laptop", "mini1", "laptop"]


@pytest.mark.parametrize(
    ("entry", "overrides", "app", "host", "port"),
    [
        ("{host: 192.168.1.30}", (), "native", "192.168.1.30", 8000),
        ("{host: 192.168.1.30, app: browser}", (), "browser", "laptop.local", 8000),
        ("{host: ipad.local, app: native}", (), "native", "ipad.local", 8000),
        ("{host: ipad.local}", ("port={default: 65432, ipad: 8100}",), "browser", "laptop.local", 8100),
    ],
)
def test_how_a_tablet_is_met(
    gpt2: Path, written: Write, entry: str, overrides: tuple[str, ...], app: str, host: str, port: int
) -> None:
    text = LAN.replace("{host: ipad.local, memory_mb: 3000}", entry)
    tablet = planned(gpt2, asked(written("lan.smol.yml", text), "", *overrides)).tablets[1]
    assert (tablet.app, tablet.host, tablet.port, tablet.optional) == (app, host, port, False)


def test_with_certificates_the_page_comes_by_https(gpt2: Path, written: Write) -> None:
    served = resolve_serving(asked(written("lan.smol.yml", LAN)), lambda name: ModelFolder(gpt2, f"test {name}", "MIT"))
    assert served.shape is not None
    plan = make_serve_plan(served.cluster, served.serve, served.shape, ca="ca" * 32)
    assert (plan.tablets[1].tls, plan.ca) == (True, "ca" * 32)
    assert not [note for note in plan.notes if "hidden states" in note]


def test_an_optional_tablet(gpt2: Path) -> None:
    plan = planned(gpt2, asked(HOME, "", "optional=ipad", "tablet_wait=30"))
    assert plan.tablets[1].optional
    assert (plan.serve.optional, plan.serve.tablet_wait_s) == (("ipad",), 30.0)
    without = planned(gpt2, asked(HOME, "", "optional=ipad", nodes=("mini1", "mini2")))
    assert (without.tablets, without.serve.optional) == ({}, ())


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("optional=ipd",), 'optional: there is no machine "ipd" in the inventory | did you mean ipad?'),
        (
            ("optional=mini2",),
            "optional: mini2 is no tablet: the others go on without any computer but rank 0's, whatever this says"
            " | leave it out",
        ),
        (("port={default: 65432, ipad: 0}",), "0 is no port that the app of ipad could be dialled at | write 8000"),
        (
            ('stages=[{host: ipad, layers: "0:4"}, {host: mini1, layers: "4:12"}]',),
            "ipad is a tablet, and the first stage has the embeddings: a computer's, as rank 0 | begin with mini1",
        ),
        (("tablet_wait=0",), "tablet_wait: must be more than 0, not 0"),
    ],
)
def test_what_cannot_be(gpt2: Path, overrides: tuple[str, ...], problem: str) -> None:
    told = refused(gpt2, asked(HOME, "", *overrides))
    assert len(told) == 1
    assert problem in told[0]


def test_an_app_speaks_without_tls(gpt2: Path) -> None:
    told = refused(gpt2, asked(HOME, "", "encrypt=always", ca="ca" * 32))
    assert len(told) == 1
    assert "always cannot be kept on the way to ipad: its app speaks without TLS | write encrypt: auto" in told[0]


def test_too_little_memory_is_the_tablets_own(gpt2: Path, written: Write) -> None:
    told = refused(gpt2, asked(written("lan.smol.yml", LAN.replace("memory_mb: 3000", "memory_mb: 300"))))
    assert len(told) == 1
    assert "machines.ipad.memory_mb: layers 4:8 need" in told[0]


@pytest.mark.parametrize(("precision", "sixteenths"), [("fp16", 32), ("int8", 16), ("int4", 9)])
def test_the_weights_in_an_app_are_as_the_inventory_says(
    gpt2: Path, written: Write, precision: str, sixteenths: int
) -> None:
    entry = f"{{host: 192.168.1.30, precision: {precision}}}"
    plan = planned(gpt2, asked(written("lan.smol.yml", LAN.replace("{host: ipad.local, memory_mb: 3000}", entry))))
    assert (plan.tablets[1].format, plan.tablets[1].precision) == ("coreml", precision)
    # The caches stay halves.
    layer = 12 * 768 * 768 * sixteenths // 16
    cache = 2 * 2 * 768 * plan.serve.cache_tokens
    assert plan.stages[1].need_mb == TABLET_BASE_MB + -(-4 * (layer + cache) // 2**20)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "host: ipad.local,",
            "host: ipad.local, precision: int8,",
            "machines.ipad.precision: int8: a browser computes its layers in fp32 alone"
            " | leave it out, or write `app: native`, which takes fp16, int8, int4",
        ),
        (
            "host: ipad.local,",
            "host: ipad.local, app: native, precision: fp32,",
            "machines.ipad.precision: fp32: the app computes with Core ML, whose weights are fp16, int8, int4"
            " | leave it out (fp16), or write one of these",
        ),
        (
            "host: ipad.local,",
            "host: ipad.local, app: native, precision: int3,",
            "machines.ipad.precision: must be one of fp32, fp16, int8, int4, not the text",
        ),
        (
            "mini1: {",
            "mini1: {precision: int8, ",
            "machines.mini1.precision: int8: only a tablet's layers have a precision of their own"
            " | leave it out; what all computers serve is `precision` of the model: --override precision=int8",
        ),
    ],
)
def test_a_precision_that_nothing_there_computes(gpt2: Path, written: Write, old: str, new: str, problem: str) -> None:
    told = refused(gpt2, asked(written("lan.smol.yml", LAN.replace(old, new, 1))))
    assert len(told) == 1
    assert problem in told[0]


def test_the_process_of_a_tablet_counts_on_rank_0s_machine(gpt2: Path, written: Write) -> None:
    def headed(memory_mb: int) -> Path:
        laptop = f"laptop.local, memory_mb: {memory_mb}"
        return written("lan.smol.yml", LAN.replace("laptop.local, memory_mb: 8192", laptop))

    need = planned(gpt2, asked(headed(8192))).stages[0].need_mb
    alone = LAN.replace('{host: ipad, layers: "4:8"}, {host: mini1, layers: "8:12"}', '{host: mini1, layers: "4:12"}')
    assert need == planned(gpt2, asked(written("alone.smol.yml", alone))).stages[0].need_mb + STAGE_BASE_MB
    assert planned(gpt2, asked(headed(need))).stages[0].memory_mb == need
    told = refused(gpt2, asked(headed(need - 1)))
    assert len(told) == 1
    words = f"machines.laptop.memory_mb: layers 0:4 and the process of a tablet need {need} MB there, and it has"
    assert f"{words} {need - 1}" in told[0]


def test_a_tablet_on_no_network_of_the_head(gpt2: Path, written: Write) -> None:
    wires = "networks:\n  cable: {medium: ethernet, private: true, members: {laptop: 10.0.0.1, mini1: 10.0.0.2}}\n"
    told = refused(gpt2, asked(written("lan.smol.yml", LAN.replace("defaults:", f"{wires}defaults:"))))
    assert [one.partition(": ")[2] for one in told] == [
        "networks: no wire joins ipad and laptop, and no gateway leads from one to the other | put both on a network,"
        " or give a network `gateways: {other_network: machine}`"
    ]


def test_only_a_tablet_has_an_app(gpt2: Path, written: Write) -> None:
    told = refused(gpt2, asked(written("lan.smol.yml", LAN.replace("mini1: {", "mini1: {app: browser, "))))
    assert told == [
        f"{told[0].partition(':')[0]}:5: machines.mini1.app: browser: only a tablet (kind ipados) computes layers in an"
        " app | leave `app` out, or write `kind: ipados`"
    ]


def test_two_pages_on_one_port_are_told(gpt2: Path, written: Write) -> None:
    text = LAN.replace("defaults:", "  ipad2: {host: ipad2.local}\ndefaults:").replace(
        '{host: mini1, layers: "8:12"}', '{host: ipad2, layers: "8:12"}'
    )
    told = refused(gpt2, asked(written("lan.smol.yml", text)))
    assert len(told) == 1
    assert "the page for ipad and the page for ipad2 share 8000 on laptop.local" in told[0]
