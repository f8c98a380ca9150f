"""Every message on the way to the plan of a served model: addresses, ports, who reaches whom, what fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smolcluster.comm.config import GroupConfig
from smolcluster.errors import ConfigError, InputError, Problem
from smolcluster.spec.request import Request
from smolcluster.spec.served import ModelFolder
from smolcluster.spec.serving import resolve_serving

from .conftest import HOME, LOCAL
from .serving_plans import ROW, Write, asked, planned, refused


def test_every_problem_at_once(written: Write) -> None:
    def nowhere(name: str) -> ModelFolder:
        raise InputError([Problem(name, 0, "", "is nowhere", "look again")])

    own = written("own.smol.yml", "schema: 1\nname: own\nmachines: {here: {connection: local}}\n")
    config = written("c.yaml", "web_interface: {host: her, listen: [0.0.0.0, 10.0.0.7]}\nencrypt: always\n")
    with pytest.raises(ConfigError) as error:
        resolve_serving(asked(own, "smollm2", cluster_config=config), nowhere)
    assert [(problem.file, problem.line, problem.key) for problem in error.value.problems] == [
        ("c.yaml", 1, "web_interface.host"),
        ("c.yaml", 2, "encrypt"),
        ("smollm2", 0, ""),
    ]


def test_the_api_s_machine(gpt2: Path, written: Write) -> None:
    def api(*overrides: str, **more: Any) -> str:
        plan = planned(gpt2, asked(HOME, "", *overrides, **more))
        return plan.ranks[plan.api.rank].node

    pair = {"nodes": ("mini1", "mini2")}
    assert api(**pair) == "mini1"  # the controller, macbook, is not among those asked for
    assert api("web_interface.host=pi5", **pair) == "pi5"
    assert api("stages=[{host: mini1, layers: '0:12'}]") == "macbook"
    bad = refused(gpt2, asked(HOME, "", "web_interface.host=ipad", **pair))
    assert bad == [
        "--override web_interface.host=ipad: web_interface.host: ipad cannot answer for the API: connection none,"
        " nothing can be started there | name a machine that is reached by ssh, or the controller"
    ]
    assert api("web_interface.host=win", **pair) == "win"


def test_the_api_listens_on_addresses_of_its_own(gpt2: Path) -> None:
    def request(listen: str) -> Request:
        return asked(HOME, "", f"web_interface.listen={listen}", nodes=("mini1", "mini2"))

    assert planned(gpt2, request("loopback")).api.listen == ("127.0.0.1",)
    listen = planned(gpt2, request("[127.0.0.1, 10.10.0.1, mini1.local]")).api.listen
    assert listen == ("127.0.0.1", "10.10.0.1", "mini1.local")
    own = "10.10.0.1, 192.168.50.1, mini1.local"
    flag = "--override web_interface.listen={0}: web_interface.listen{1}: "
    cases = {
        "[0.0.0.0]": ("[0]", "0.0.0.0 would answer on every network the machine is ever on | name its own addresses: "
                      f"{own}; or write loopback"),
        '["::"]': ("[0]", f":: would answer on every network the machine is ever on | name its own addresses: {own};"
                   " or write loopback"),
        "[10.10.0.2]": ("[0]", "10.10.0.2 is no address of mini1's in the inventory | did you mean 10.10.0.1?"),
        "everywhere": ("", 'must be loopback or a list of addresses, not "everywhere" | write loopback, or'
                       " [192.168.1.20]"),
    }  # fmt: skip
    for listen_text, (index, told) in cases.items():
        assert refused(gpt2, request(listen_text)) == [flag.format(listen_text, index) + told]


def test_ports_in_each_others_way(gpt2: Path) -> None:
    def bad(*overrides: str) -> list[str]:
        return refused(gpt2, asked(LOCAL, str(gpt2), *overrides))

    assert bad("web_interface.api_port=5050") == [
        "inventory local: port: web_interface.api_port and web_interface.frontend_port share 5050 on 127.0.0.1"
        " | give their machines ports further apart"
    ]
    assert bad("port={default: 8079}") == [
        "inventory local: port: rank 1 (node2) and web_interface.api_port share 8080 on 127.0.0.1"
        " | give their machines ports further apart"
    ]
    ranks = planned(gpt2, asked(LOCAL, str(gpt2), "port=7000")).ranks
    assert [rank.port for rank in ranks] == [7000, 7001, 7002, 0]


def test_a_free_port_must_be_findable(gpt2: Path, written: Write) -> None:
    row = written("row.smol.yml", ROW)
    assert refused(gpt2, asked(row, "", "port=0", "web_interface.host=c", nodes=("a", "b"))) == [
        "--override port=0: port.default: 0 (any free port) cannot be announced to b, which does not share a's files"
        " | write a port, 65432 for one"
    ]


def test_who_must_reach_whom(gpt2: Path, written: Write) -> None:
    """Neighbours, all stages the head, the API the head."""
    row = written("row.smol.yml", ROW)
    assert refused(gpt2, asked(row, nodes=("a", "b", "c"))) == [
        "inventory row: networks: no wire joins a and c, and no gateway leads from one to the other"
        " | put both on a network, or give a network `gateways: {other_network: machine}`"
    ]
    assert refused(gpt2, asked(row, "", "web_interface.host=c", nodes=("a", "b"))) == [
        "inventory row: networks: no wire joins c and a, and no gateway leads from one to the other"
        " | put both on a network, or give a network `gateways: {other_network: machine}`"
    ]


def test_stages_that_are_no_neighbours_may_be_apart(gpt2: Path, written: Write) -> None:
    text = """\
schema: 1
name: star
machines:
  hub: {kind: linux, host: h.local}
  a: {kind: linux, host: a.local}
  b: {kind: linux, host: b.local}
  c: {kind: linux, host: c.local}
networks:
  ab: {medium: ethernet, private: true, members: {hub: 10.0.0.9, a: 10.0.0.1, b: 10.0.0.2}}
  bc: {medium: ethernet, private: true, members: {hub: 10.0.1.9, b: 10.0.1.2, c: 10.0.1.3}}
"""
    plan = planned(gpt2, asked(written("star.smol.yml", text), nodes=("hub", "a", "b", "c")))
    assert [rank.peers for rank in plan.ranks] == [
        {1: "10.0.0.1", 2: "10.0.0.2", 3: "10.0.1.3"},
        {0: "10.0.0.9", 2: "10.0.0.2"},
        {0: "10.0.0.9", 1: "10.0.0.1", 3: "10.0.1.3"},
        {0: "10.0.1.9", 2: "10.0.1.2"},
        {0: "127.0.0.1"},
    ]
    assert plan.notes == (
        "no wire joins a and c, and no gateway leads from one to the other: if all stages between theirs are lost, so"
        " is one of the two",
    )


def test_a_model_that_fits_nowhere(gpt2: Path, written: Write) -> None:
    text = "schema: 1\nname: own\nmachines: {here: {connection: local, memory_mb: 700}}\n"
    assert refused(gpt2, asked(written("own.smol.yml", text))) == [
        "inventory own: machines.memory_mb: the model needs about 1310 MB over 1 machines, and there is no split that"
        " fits: here 700 | take a smaller model, int8 weights, or more machines"
    ]


def test_stages_of_another_model(smollm2: Path) -> None:
    [problem] = refused(smollm2, asked(HOME, "smollm2", "stages=[{host: mini1, layers: '0:12'}]"))
    assert problem == (
        "--override stages=[{host: mini1, layers: '0:12'}]: stages: the stages end at layer 12, the model has 30"
        " | let them cover 0:30, or name the machines alone: --nodes mini1"
    )


def test_a_wrong_number_of_layers_in_a_cluster_file_is_noted(gpt2: Path, written: Write) -> None:
    config = written("c.yaml", "web_interface: {api_port: 8081}\nnum_layers: 30\nmodel_name: causal_gpt2\n")
    plan = planned(gpt2, asked(LOCAL, cluster_config=config))
    assert plan.notes == ("c.yaml:2: num_layers: said 30, taken: 12 (the model's config wins)",)
    assert (plan.serve.model_name, plan.api.api_port) == ("causal_gpt2", 8081)


def test_wire_formats_and_faults_are_of_training_and_noted(smollm2: Path, written: Write) -> None:
    config = written("c.yaml", "wire: int8\nfaults:\n  - {kind: drop, rank: 1, step: 5}\n")
    plan = planned(smollm2, asked(LOCAL, cluster_config=config))
    assert plan.notes == (
        "c.yaml:1: wire: said int8, taken: none (serving sends no gradients)",
        "c.yaml:2: faults: said drop of rank 1 at step 5, taken: none (serving has no steps to begin one at)",
    )
    group = GroupConfig.from_plan(plan, plan.ranks[1], "run-1", 0, b"secret", None)
    assert (group.faults, group.transport, group.world_size) == (None, "smol", plan.world_size)
