"""What may be shown to strangers: each kind of secret and name is replaced, and what helps to understand stays."""

from __future__ import annotations

import pytest

from smolcluster.observe.anonymous import Anonymous, without_secrets

HEX = "0123456789abcdef" * 4
URLSAFE = "Zk3-qT9_pLm2-Xv7aWc8_RtYs4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("open('/Users/ann/my diary/of may.txt')", "open('~/.../of may.txt')"),
        (f"the secret {HEX} is wrong", "the secret <secret> is wrong"),
        ("Authorization: Bearer abc.def-123456", "Authorization: <secret> <secret>"),
        ("key=hunter2 next", "key=<secret> next"),
        ("ansible_ssh_pass=hunter2, become_pass: 'hunter 2'", "ansible_ssh_pass=<secret>, become_pass: <secret>"),
        ('"api_key": "hunter2"', '"api_key": <secret>'),
        ("WANDB_API_KEY=x1 and HOME=/x", "WANDB_API_KEY=<value> and HOME=<value>"),
        ("GREETING=hallo", "GREETING=<value>"),
        ("http://10.0.0.1:8000/?key=abcdefgh&x=1", "http://net1.1:8000/?key=<secret>&x=1"),
        ("https://ann:pw@host/x", "https://<secret>@host/x"),
        ("hf_abcdefghijkl and sk-abcdefghijkl", "<secret> and <secret>"),
        (f"onetime {URLSAFE}.", "onetime <secret>."),
        ("a\n-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\nb", "a\n<secret>\nb"),
        ("cut: -----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn", "cut: <secret>"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA ann@mac", "<secret>"),
        ("the known word is said", "the <secret> is said"),
        ("/home/ann/.smolcluster/runs/run-1/log.txt:3", "~/.../log.txt:3"),
        ("in /Users/ann", "in ~"),
        ("/Users/ann/book.txt", "~/book.txt"),
        ("C:\\Users\\Ann Smith\\my runs\\node.yaml", "~/.../node.yaml"),
        ("/root/.cache/x y", "~/.../x y"),
        ("ssh ann@mini1.local", "ssh user1@node1.local"),
        ("Ann's machine", "user1's machine"),
        ("mini1 asks MINI1 and pi5, not mini10", "node1 asks node1 and node2, not mini10"),
        ("at nas.fritz.box", "at host2.local"),
        ("workstation", "host1"),
        ("10.10.0.1 10.10.0.2 10.10.1.1 10.10.0.1", "net1.1 net1.2 net2.1 net1.1"),
        ("127.0.0.1:29500 and 0.0.0.0", "127.0.0.1:29500 and 0.0.0.0"),
        ("fe80::1c2b:3aff:fe4d:5e6f%en0 ::1", "ip6-1 ::1"),
        ("aa:bb:cc:dd:ee:0F AA-BB-CC-DD-EE-0f", "mac1 mac2"),
        (
            "--password hunter2 --api-key 'a b' --ssh-pass x,y",
            "--password <secret> --api-key <secret> --ssh-pass <secret>",
        ),
        ("argv ['--password', 'hunter2']", "argv ['--password', <secret>]"),
        ("curl -u ann:hunter2 x", "curl -u user1:<secret> x"),
        ('wlan0 ESSID:"Smiths at home"', "wlan0 ESSID:<ssid>"),
        ("ssid = Smiths at home", "ssid = <ssid>"),
        ("pi5.home.arpa, nas.home.arpa", "node2.local, host2.local"),
        ("localhost.localdomain", "host2.local"),
        ("https://ann:pw@pip.smiths.net/simple", "https://<secret>@host2.domain1/simple"),
        ("http://nas:8000/ of the nas", "http://host2:8000/ of the host2"),
        ("mail ann@cellar.smiths.net of smiths.net", "mail user1@host2.domain1 of domain1"),
        # What must stay readable.
        ("https://docs.python.org/3, https://docs.pytorch.org/docs", None),
        ("--tokens 5 --max-tokens 64 --key is missing, --user 1000:1000", None),
        ("model.safetensors plan.json smolcluster.cli linear.weight", None),
        ("2026-11-29 14:12:20,972 rank 0 ended: tokens: 1,024 tokens_per_s=3.5", None),
        ("torch 2.7.1, step 8/8, loss 4.1234e-05", None),
        ("layers 0:10 as planned, port 8000", None),
        ("pass_s=0.5, a pass: forward and backward", None),
        ('  File "smolcluster/infer/rank.py", line 42, in run_stage', None),
    ],
)
def test_replaced(text: str, said: str | None) -> None:
    hidden = Anonymous(["mini1", "pi5"], ["workstation"], ["ann", "root"], ["known word"])
    hidden.learn(text)
    assert hidden.text(text) == (text if said is None else said)


def test_a_machines_name_is_learnt_where_it_stands_as_one() -> None:
    hidden = Anonymous(["mini1"])
    hidden.learn("ann@kitchen-pi and nas.local, mini1.local")
    assert hidden.text("the nas and kitchen-pi and mini1") == "the host2 and host1 and node1"


def test_a_domain_is_replaced_with_all_that_is_in_it() -> None:
    hosts = ("mini1.smiths.net", "nas.tail1234.ts.net", "server.smiths.net", "192.168.1.2", "localhost", "pc.smiths")
    hidden = Anonymous(["mini1"], hosts)
    text = "mini1.smiths.net. MINI1.SMITHS.NET cellar.smiths.net a.b.smiths.net www.tail1234.ts.net nas pc.smiths"
    hidden.learn(text)
    said = hidden.text(text)
    assert said.startswith("node1.domain1. node1.domain1 ")
    assert not [word for word in ("smith", "tail1234", "cellar", "nas") if word in said.lower()]
    kept = "smolcluster.net model.safetensors role server 2.7.1 xsmiths.network"
    assert hidden.text(kept) == kept


def test_a_networks_name_may_be_a_wifis() -> None:
    hidden = Anonymous(["pi5"], networks=["Smiths-5G", "wifi", "ethernet_pi5", "10g"])
    assert hidden.text("over smiths-5g, wifi, ethernet_pi5, 10g") == "over network1, wifi, ethernet_node1, 10g"


def test_a_flags_word_in_a_list() -> None:
    value = ["run", "--password", "hunter2", "--tokens", "5"]
    assert Anonymous().value(value) == ["run", "--password", "<secret>", "--tokens", "5"]


def test_the_same_is_always_the_same_and_values_keep_their_form() -> None:
    hidden = Anonymous(["mini1"])
    value = {
        "mini1": {"listen": ["10.10.0.1"], "tokens": 7, "key": True, "token": "abc", "secrets": ["x", "y"]},
        "peers": {"0": "10.10.0.1"},
        "tokenizer": "bpe:2048",
        "secret_file": "/home/ann/secret",
        "loss": 1.5,
        "none": None,
        "path": "/home/ann/Very Private/book one.txt",
    }
    assert hidden.value(value) == {
        "node1": {"listen": ["net1.1"], "tokens": 7, "key": True, "token": "<secret>", "secrets": ["<secret>"] * 2},
        "peers": {"0": "net1.1"},
        "tokenizer": "bpe:2048",
        "secret_file": "<secret>",
        "loss": 1.5,
        "none": None,
        "path": "~/.../book one.txt",
    }


@pytest.mark.parametrize(
    "text",
    [
        "ansible-playbook --ask-become-pass setup.yml -i x", "Use --ask-pass once", "--tls-key ~/certs/node.pem",
        "smolcluster --key FILE", "python -u C:\\smol\\worker.py",
    ],
)  # fmt: skip
def test_a_command_line_keeps_what_is_no_secret(text: str) -> None:
    assert without_secrets(text) == text


def test_what_stands_in_urls_of_other_kinds_is_no_machine() -> None:
    text = "hf://datasets/smith/x; package datasets 3.0; s3://models/y, docs.ansible.com, https://aka.ms/z"
    anonymous = Anonymous()
    anonymous.learn(text)
    assert anonymous.text(text) == text
