"""Mistakes in a cluster YAML: each gives one clear complaint with file, line, key and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smolcluster.spec.request import Request

from .conftest import HOME, only_problem, report

Write = Callable[[str, str], Path]

WORKERS = """\
allToAllTopology:
  workers:
    regular:
      - {hostname: mini1, rank: 0, ip: 10.10.0.1}
      - {hostname: mini2, rank: 1, ip: 10.10.0.2}
"""
STAR = """\
host_ip: {mini1: 10.10.0.1, pi5: 192.168.50.1, win: 10.10.0.1}
server: mini1
workers: [pi5, win]
"""

# a cluster YAML for the home inventory -> strategy, complaint
CLUSTER = {
    "unknown key": ("fsdp", "fsdp_stag: 1", "c.yaml:1: fsdp_stag: unknown key | did you mean fsdp_stage?"),
    "stage": (
        "fsdp",
        "fsdp_stage: 4",
        "c.yaml:1: fsdp_stage: must be at most 3, not 4 | write a whole number from 0 to 3",
    ),
    "number in quotes": (
        "fsdp",
        'port: "65432"',
        'c.yaml:1: port: must be a number or a section, not "65432" | write 65432, or {default: 65432, mini1: 65440}',
    ),
    "port": (
        "fsdp",
        "port: 70000",
        "c.yaml:1: port: must be at most 65535, not 70000 | write a whole number from 0 to 65535",
    ),
    "port of a machine": (
        "fsdp",
        "port:\n  mini1: -1",
        "c.yaml:2: port.mini1: must be at least 0, not -1 | write a whole number from 0 to 65535",
    ),
    "count": (
        "fsdp",
        WORKERS + "num_workers: 3",
        "c.yaml:6: num_workers: says 3, but the list names 2 ranks | write 2, or leave num_workers out",
    ),
    "other count": (
        "fsdp",
        WORKERS + "num_nodes: 3",
        "c.yaml:6: num_nodes: says 3, but the list names 2 ranks | write 2, or leave num_nodes out",
    ),
    "count without a list": (
        "fsdp",
        "num_workers: 3",
        "c.yaml:1: num_workers: says 3, but 7 ranks take part | write 7, or leave num_workers out",
    ),
    "rank twice": (
        "fsdp",
        WORKERS.replace("rank: 1", "rank: 0"),
        "c.yaml:5: allToAllTopology.workers.regular[1].rank: 0 is mini1's already | number them 0 to 1",
    ),
    "rank left out": (
        "fsdp",
        WORKERS.replace("rank: 1", "rank: 2"),
        "c.yaml:5: allToAllTopology.workers.regular[1].rank: 2 leaves a gap: the list names 2 ranks"
        " | number them 0 to 1",
    ),
    "address twice": (
        "fsdp",
        WORKERS.replace("10.10.0.2", "10.10.0.1"),
        "c.yaml:5: allToAllTopology.workers.regular[1].ip: 10.10.0.1 is mini1's already"
        " | give every machine an address of its own",
    ),
    "machine nobody knows": (
        "fsdp",
        WORKERS.replace("mini2", "mini9"),
        'c.yaml:5: allToAllTopology.workers.regular[1].hostname: there is no machine "mini9" in the inventory'
        " | did you mean mini3?",
    ),
    "machine twice": (
        "fsdp",
        WORKERS.replace("mini2", "mini1"),
        "c.yaml:5: allToAllTopology.workers.regular[1].hostname: mini1 is named twice"
        " | name every machine once; one with several ranks says so in the inventory: `ranks: 2`",
    ),
    "one rank": (
        "fsdp",
        WORKERS.replace("      - {hostname: mini2, rank: 1, ip: 10.10.0.2}\n", "") + "num_workers: 2",
        "c.yaml:5: num_workers: says 2, but the list names 1 rank | write 1, or leave num_workers out",
    ),
    "one takes part": (
        "fsdp",
        "num_workers: 2\nnodes: [mini1]",
        "c.yaml:1: num_workers: says 2, but 1 rank takes part | write 1, or leave num_workers out",
    ),
    "a host name": (
        "fsdp",
        WORKERS.replace("mini2", "mini2.local"),
        'c.yaml:5: allToAllTopology.workers.regular[1].hostname: "mini2.local" is no machine\'s name'
        " | write its name in the inventory: mini1, not mini1.local",
    ),
    "missing": (
        "fsdp",
        WORKERS.replace("rank: 1, ", ""),
        "c.yaml:5: allToAllTopology.workers.regular[1].rank: is missing | add `rank: ...`",
    ),
    "nodes": (
        "fsdp",
        "nodes: [mini1, pi6]",
        'c.yaml:1: nodes[1]: there is no machine "pi6" in the inventory | did you mean pi5?',
    ),
    "a tablet": (
        "fsdp",
        "nodes: [mini1, ipad]",
        "c.yaml:1: nodes[1]: ipad cannot train (ipados) | leave it out; it can serve in inference",
    ),
    "port 0 over the network": (
        "fsdp",
        "port: 0",
        "c.yaml:1: port.default: 0 (any free port) cannot be announced to mini2, which does not share mini1's files"
        " | write a port, 65432 for one",
    ),
    "balance": (
        "fsdp",
        "nodes: [mini1, pi5]\nbalance: {pi4: 2}",
        "c.yaml:2: balance.pi4: pi4 does not take part | did you mean pi5?",
    ),
    "balance of no kind": (
        "fsdp",
        "balance: fair",
        'c.yaml:1: balance: must be even, auto or a section, not "fair" | write even, auto or {mini1: 2, pi5: 1}',
    ),
    "weight": (
        "fsdp",
        "balance: {mini1: 0}",
        "c.yaml:1: balance.mini1: must be more than 0, not 0 | write a number above 0",
    ),
    "balance auto": (
        "fsdp",
        "balance: auto",
        "inventory home: balance: auto needs measured speeds, and there is no profile.json beside the inventory"
        " | measure: python -m smolcluster profile, or ansible-playbook train.yml -e profile=true; or write even, or"
        " {mini1: 2, pi5: 1}",
    ),
    "nodes auto": (
        "classicdp",
        "nodes: auto",
        "inventory home: nodes: auto needs measured speeds, and there is no profile.json beside the inventory"
        " | measure: python -m smolcluster profile, or ansible-playbook train.yml -e profile=true; or name the"
        " machines",
    ),
    "gloo between systems": (
        "fsdp",
        "transport: gloo\nnodes: [mini1, pi5]",
        "inventory home: transport: gloo cannot join linux and macos: a gloo group cannot span operating systems"
        " | use transport: smol",
    ),
    "always encrypted": (
        "fsdp",
        "encrypt: always",
        "c.yaml:1: encrypt: always needs certificates, and the cluster has none yet"
        " | ansible-playbook certificates.yml makes them; encrypt: auto goes without until then",
    ),
    "another strategy's key": (
        "classicdp",
        "fsdp_stage: 1",
        "c.yaml: --cluster-config wants a cluster config of classicdp, but this is a cluster config of fsdp"
        " | pass it as --cluster-config (with --strategy fsdp)",
    ),
}


@pytest.mark.parametrize("name", CLUSTER)
def test_cluster_yaml(name: str, written: Write) -> None:
    strategy, text, expected = CLUSTER[name]
    path = written("c.yaml", text)
    assert only_problem(Request(HOME, strategy, cluster_config=path)) == expected


# a star's YAML for the home inventory -> complaint (beside the one that edp is not built)
STARS = {
    "count": (STAR + "num_workers: 3", "c.yaml:4: num_workers: says 3, but the list names 2 workers"),
    "worker is the server": (STAR.replace("[pi5", "[mini1, pi5"), "c.yaml:3: workers[0]: mini1 is the server already"),
    "worker twice": (STAR.replace("win]", "pi5]"), "c.yaml:3: workers[1]: pi5 is named twice"),
    "no host_ip": (STAR.replace(", win: 10.10.0.1", ""), "c.yaml:3: workers[1]: win has no entry in host_ip"),
    "typo": (STAR.replace("server: mini1", "server: mni1"), 'c.yaml:2: server: there is no machine "mni1"'),
}


@pytest.mark.parametrize("name", STARS)
def test_star_yaml(name: str, written: Write) -> None:
    text, expected = STARS[name]
    assert expected in report(Request(HOME, "edp", cluster_config=written("c.yaml", text)))


def test_own_addresses_of_mp_are_each_ones_own(written: Write) -> None:
    path = written("c.yaml", STAR)
    text = report(Request(HOME, "mp", cluster_config=path))
    assert "c.yaml:1: host_ip.win: 10.10.0.1 is the own address of mini1 already" in text
