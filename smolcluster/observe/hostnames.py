"""Names of machines as they stand in a network's text: what is a host's name, and which domain it is in. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from smolcluster.spec.values import ip_of

# What home networks call themselves: it says nothing of anybody.
LOCAL_DOMAINS = ("home.arpa", "localdomain", "local", "lan", "home", "internal", "fritz.box")
# Where messages of programs point to for more. Anybody else's name is replaced, an index's too: it may be the owner's.
_EXPLAIN = (
    "docs.python.org", "docs.pytorch.org", "docs.ansible.com", "support.apple.com", "learn.microsoft.com",
    "go.microsoft.com", "aka.ms", "errors.pydantic.dev", "example.com",
)  # fmt: skip
# Words that logs and JSON are full of: a machine that is called so is known by its whole name alone.
PLAIN = frozenset((
    "server", "worker", "stage", "api", "head", "node", "host", "machine", "gpu", "cpu", "train", "training",
    "serve", "serving", "model", "data", "cluster", "run", "runs", "home", "lab", "local", "localhost", "lan",
    "wlan", "wifi", "ethernet", "eth", "cable", "wire", "net", "network", "thunderbolt", "fabric", "bridge",
    "loopback", "usb", "router", "switch", "mesh", "vpn", "tailscale", "tailnet", "www", "mail", "web", "proxy",
    "mirror", "pypi", "github", "huggingface", "wandb", "store", "cache", "chat", "datasets", "models",
    "comm", "jobs", "plan", "infer", "observe", "dashboard", "tablet",
))  # fmt: skip
_FULL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE)
# hf://datasets/..., s3://models/...: what follows is no host there.
_IN_URL = re.compile(
    r"\b(?:https?|wss?|tcp|tls|ssh|sftp|grpcs?|git)://(?:[^/\s@]*@)?([a-z0-9](?:[a-z0-9_.-]*[a-z0-9_])?)", re.IGNORECASE
)
# With a domain, whose end is of letters: uv@0.5.1 is none.
_BEHIND_AT = re.compile(r"[\w.>-]@([a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9-]+)*\.[a-z]{2,})\b", re.IGNORECASE)
# Small words of networks' names, beside PLAIN: `ethernet_pi5`, `tb4`, `10g`.
_OF_WIRES = frozenset((
    "pi", "mini", "mac", "macbook", "imac", "ipad", "win", "pc", "tb", "g", "gbit", "fast", "slow", "guest",
    "office", "desk", "rack", "ring",
))  # fmt: skip


def is_host(text: str) -> bool:
    """Whether a text is a host's name, and no address."""
    whole = text.rstrip(".")
    return _FULL.fullmatch(whole) is not None and ip_of(whole) is None and not whole.replace(".", "").isdigit()


def split_host(name: str) -> tuple[str, str]:
    """What a machine is called, and its domain: ("mini1", "smith.net"). The domain is empty where it has none, or has
    one of those that every home has.
    """
    name = name.rstrip(".")
    for domain in LOCAL_DOMAINS:
        label = name[: -len(domain) - 1]
        if name.lower().endswith(f".{domain}") and "." not in label:
            return label, ""
    label, _, domain = name.partition(".")
    return label, domain


def hosts_in(text: str) -> Iterator[str]:
    """The hosts of a text's URLs, and those behind an @, without addresses and those that explain (docs.python.org)."""
    for found in (*_IN_URL.finditer(text), *_BEHIND_AT.finditer(text)):
        name = found[1].lower()
        if is_host(name) and name not in PLAIN and not _explains(name):
            yield name


def is_plain(name: str) -> bool:
    """Whether a name is made of words that say nothing of anybody: `wifi`, `lan2`, `ethernet_pi5`."""
    words = [word.strip("0123456789") for word in re.split(r"[_-]", name.lower())]
    return all(len(word) < 2 or word in PLAIN | _OF_WIRES for word in words)


def _explains(name: str) -> bool:
    return any(name == domain or name.endswith(f".{domain}") for domain in _EXPLAIN)
