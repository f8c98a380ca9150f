"""Where certificates lie. On each machine below the home folder of whoever runs smolcluster there, not in the workdir:
that may be on a disk that is shared, or is wiped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AUTHORITY_HOME = "~/.smolcluster/ca"
NODES_HOME = "~/.smolcluster/certs"
# The one answer to most of what can be wrong with a node's certificate. With which inventory, a command knows that was
# given one (commands/_inventory.py), and a playbook (roles/preflight); a node does not.
RENEW = "ansible-playbook certificates.yml"


@dataclass(frozen=True)
class AuthorityFolder:
    """The files of the cluster's authority, on the controller."""

    path: Path

    @property
    def certificate(self) -> Path:
        """Its own certificate; what nodes, browsers and phones trust."""
        return self.path / "ca.pem"

    @property
    def key(self) -> Path:
        """The key it signs with. Whoever has it is the cluster."""
        return self.path / "ca.key"

    @property
    def issued(self) -> Path:
        """What it has signed and revoked: ledger.py."""
        return self.path / "issued.json"

    @property
    def crl(self) -> Path:
        """The signed list of revoked certificates."""
        return self.path / "crl.pem"

    @property
    def lock(self) -> Path:
        """Held while the ledger is changed."""
        return self.path / ".lock"


@dataclass(frozen=True)
class NodeFolder:
    """The files of one node, on that node."""

    path: Path

    @property
    def key(self) -> Path:
        """Its private key, made here. It is in no message and on no other machine."""
        return self.path / "node.key"

    @property
    def certificate(self) -> Path:
        """What the authority signed for it."""
        return self.path / "node.pem"

    @property
    def ca(self) -> Path:
        """The authority it trusts."""
        return self.path / "ca.pem"

    @property
    def crl(self) -> Path:
        """The certificates it does not trust any more."""
        return self.path / "crl.pem"


def authority_folder() -> AuthorityFolder:
    """That of this user's clusters, on this machine."""
    return AuthorityFolder(Path(AUTHORITY_HOME).expanduser())


def node_folder(node: str) -> NodeFolder:
    """That of a node, on this machine. A folder for each: several nodes may be one machine."""
    return NodeFolder(Path(NODES_HOME).expanduser() / node)
