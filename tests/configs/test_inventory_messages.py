"""Mistakes in an inventory: each gives one clear complaint with file, line, key and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smolcluster.spec.request import Request

from .conftest import LAN, only_problem, report

Write = Callable[[str, str], Path]

# what is written in the inventory in place of what -> the complaint
INVENTORY = {
    "unknown key": (
        "pi5: {}",
        "pi5: {memroy_mb: 1}",
        "lan.yml:5: machines.pi5.memroy_mb: unknown key | did you mean memory_mb?",
    ),
    "wrong type": (
        "pi5: {}",
        "pi5: {ranks: many}",
        'lan.yml:5: machines.pi5.ranks: must be a whole number, not the text "many" | write a whole number, at least 1',
    ),
    "wrong kind": (
        "pi5: {}",
        "pi5: {kind: linnux}",
        'lan.yml:5: machines.pi5.kind: must be one of macos, linux, windows, ipados, not the text "linnux"'
        " | did you mean linux?",
    ),
    "unknown kind": (
        "pi5: {}",
        "box: {}",
        "lan.yml:5: machines.box: the name does not tell what kind of machine this is"
        " | add `kind: macos`, linux, windows or ipados",
    ),
    "one address twice": (
        "pi5: 10.0.0.2",
        "pi5: 10.0.0.1",
        "lan.yml:11: networks.lan.members.pi5: 10.0.0.1 is the own address of mini1 in lan already"
        " | give every machine an address of its own",
    ),
    "outside the subnet": (
        "10.0.0.2",
        "10.0.1.2",
        "lan.yml:11: networks.lan.members.pi5: 10.0.1.2 lies outside the subnet 10.0.0.0/24"
        " | use an address between 10.0.0.1 and 10.0.0.254",
    ),
    "the subnet's own address": (
        "10.0.0.2",
        "10.0.0.255",
        "lan.yml:11: networks.lan.members.pi5: 10.0.0.255 is no machine's: the first and last address of 10.0.0.0/24"
        " are reserved | use an address between 10.0.0.1 and 10.0.0.254",
    ),
    "no address": (
        "10.0.0.2",
        "10.0.0.333",
        'lan.yml:11: networks.lan.members.pi5: "10.0.0.333" is neither an IP address nor a host name'
        " | write 10.10.0.1, fd00::1 or mini1.local",
    ),
    "no subnet": (
        "10.0.0.0/24",
        "10.0.0.7/24",
        "lan.yml:9: networks.lan.subnet: 10.0.0.7/24 has host bits set | write it as 10.10.0.0/24",
    ),
    "member nobody knows": (
        "pi5: 10.0.0.2",
        "pi6: 10.0.0.2",
        'lan.yml:11: networks.lan.members.pi6: there is no machine "pi6"'
        " | did you mean pi5? Else delete this line, or add pi6 to machines",
    ),
    "member left of a machine that was deleted": (
        "pi5: 10.0.0.2",
        "pi5: 10.0.0.2, mini3: 10.0.0.3",
        'lan.yml:11: networks.lan.members.mini3: there is no machine "mini3"'
        " | delete this line, or add mini3 to machines",
    ),
    "wire that nobody is left on": (
        "    members: {mini1: 10.0.0.1, pi5: 10.0.0.2}",
        "    members:",
        "lan.yml:11: networks.lan.members: nobody is on this wire"
        " | write `machine: address` lines below it, or delete the wire",
    ),
    "gateway to nowhere": (
        "private: true",
        "private: true\n    gateways: {wan: mini1}",
        'lan.yml:11: networks.lan.gateways.wan: there is no other network "wan" | other networks: none',
    ),
    "subnet of another wire": (
        "    members: {mini1: 10.0.0.1, pi5: 10.0.0.2}",
        "    members: {mini1: 10.0.0.1, pi5: 10.0.0.2}\n"
        "  other: {medium: wifi, subnet: 10.0.0.0/16, members: {mini1: 10.0.1.1, pi5: 10.0.1.2}}",
        "lan.yml:12: networks.other.subnet: 10.0.0.0/16 overlaps lan's 10.0.0.0/24: no machine could tell them apart"
        " | one subnet per wire",
    ),
    "interface of who is not there": (
        "private: true",
        "private: true\n    interfaces: {mini2: en0}",
        "lan.yml:11: networks.lan.interfaces.mini2: mini2 is not on this wire | did you mean mini1?",
    ),
    "interface that is none": (
        "private: true",
        "private: true\n    interfaces: {mini1: -x}",
        'lan.yml:11: networks.lan.interfaces.mini1: "-x" is no network interface'
        " | write the device (en0, eth0), or on Windows the adapter's name",
    ),
    "packets too small": (
        "private: true",
        "private: true\n    mtu: 576",
        "lan.yml:11: networks.lan.mtu: must be at least 1280, not 576 | write a whole number from 1280 to 9216",
    ),
    "a switch with a typo": (
        "name: lan",
        "name: lan\nnetwork: {pis_reach_eachother: true}",
        "lan.yml:3: network.pis_reach_eachother: unknown key | did you mean pis_reach_each_other?",
    ),
    "a switch that is neither": (
        "name: lan",
        "name: lan\nnetwork: {pis_reach_each_other: yes}",
        'lan.yml:3: network.pis_reach_each_other: must be true or false, not the text "yes"'
        " | write true or false without quotes",
    ),
    "key twice": (
        "  pi5: {}",
        "  pi5: {}\n  mini1: {}",
        "lan.yml:6: machines.mini1: is given twice, first on line 4 | keep one of the two",
    ),
    "controller nobody knows": (
        "name: lan",
        "name: lan\ncontroller: mini2",
        'lan.yml:3: controller: there is no machine "mini2" | did you mean mini1?',
    ),
    "controller that is not the machine one types on": (
        "name: lan\nmachines:\n  mini1: {}",
        "name: lan\ncontroller: mini1\nmachines:\n  mini2: {connection: local}\n  mini1: {}",
        "lan.yml:3: controller: mini1 is reached over SSH, but mini2 has `connection: local`, as the controller has"
        " | write `controller: mini2`, or give mini2 a `host` instead and mini1 `connection: local`",
    ),
    "version of the future": (
        "schema: 1",
        "schema: 7",
        "lan.yml:1: schema: is version 7; this smolcluster reads version 1 | upgrade smolcluster",
    ),
    "name that is no folder": (
        "pi5: {}",
        "'../pi5': {}",
        'lan.yml:5: machines.../pi5: "../pi5" is no name | use letters, digits, - and _, at most 63, a letter or digit'
        " first",
    ),
    "not YAML": (
        "mini1: {}",
        "mini1: {",
        "lan.yml:6: is not valid YAML: expected ',' or '}', but got '<scalar>' | check indentation, quotes and colons",
    ),
    "defaults with a typo": (
        "name: lan",
        "name: lan\ndefaults: {training: {batchsize: 4}}",
        "lan.yml:3: defaults.training.batchsize: unknown key | did you mean batch_size?",
    ),
    "defaults nobody knows": (
        "name: lan",
        "name: lan\ndefaults: {trainning: {}}",
        "lan.yml:3: defaults.trainning: unknown key | did you mean training?",
    ),
    "no version": (
        "schema: 1\n",
        "",
        "lan.yml: schema: is missing | add `schema: 1`",
    ),
    "two machines at one place": (
        "pi5: {}",
        "pi5: {host: mini1}",
        "lan.yml:5: machines.pi5.host: mini1 is how mini1 is reached already"
        " | a machine with several ranks is listed once, with `ranks: 2`",
    ),
    "a tablet that trains": (
        "pi5: {}",
        "pi5: {kind: ipados, train: true}",
        "lan.yml:5: machines.pi5.train: a tablet cannot train | leave `train` out",
    ),
}


@pytest.mark.parametrize("name", INVENTORY)
def test_inventory(name: str, written: Write) -> None:
    old, new, expected = INVENTORY[name]
    assert old in LAN
    path = written("lan.yml", LAN.replace(old, new, 1))
    text = report(Request(path, "fsdp")).partition("\n")[2]
    assert "  1. " + expected.replace(" | ", "\n       fix: ") in text


def test_no_way_between_two_machines(written: Write) -> None:
    path = written("lan.yml", LAN.replace(", pi5: 10.0.0.2", ""))
    assert only_problem(Request(path, "fsdp")) == (
        "inventory lan: networks: no wire joins mini1 and pi5, and no gateway leads from one to the other"
        " | put both on a network, or give a network `gateways: {other_network: machine}`"
    )


def test_a_model_that_does_not_fit(written: Write) -> None:
    path = written("lan.yml", LAN.replace("pi5: {}", "pi5: {memory_mb: 100}"))
    assert only_problem(Request(path, "classicdp")).startswith(
        "inventory lan: machines.pi5.memory_mb: the model's state needs 303 MB there and its process 240, and it has"
        " 100 | take a smaller"
    )
