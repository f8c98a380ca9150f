"""A cluster's authority and its nodes in folders of a test's own, made as certificates.yml makes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from smolcluster.certs.authority import Authority
from smolcluster.certs.checking import authority_fingerprint
from smolcluster.certs.node import install, make_request
from smolcluster.certs.places import AuthorityFolder, NodeFolder
from smolcluster.comm import TlsContexts

DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Certified:
    """`ca` is the authority's folder, nodes lie beside it."""

    path: Path

    @property
    def authority(self) -> AuthorityFolder:
        return AuthorityFolder(self.path / "ca")

    @property
    def fingerprint(self) -> str:
        return authority_fingerprint(self.authority)

    def at(self, now: datetime = NOW) -> Authority:
        """The authority on that day; made if there is none."""
        return Authority.create(self.authority, now)

    def node(self, name: str) -> NodeFolder:
        return NodeFolder(self.path / name)

    def add(self, name: str, *names: str, now: datetime = NOW) -> NodeFolder:
        """A node with its certificate of that day."""
        folder = self.node(name)
        bundle, _ = self.at(now).sign(make_request(folder, name)[0], name, names or (f"{name}.local",))
        install(folder, name, bundle)
        return folder

    def tells(self, *nodes: str) -> None:
        """The newest list of revoked ones, brought to these nodes."""
        for name in nodes:
            install(self.node(name), name, self.at().bundle_without())

    def contexts(self, name: str) -> TlsContexts:
        folder = self.node(name)
        return TlsContexts.from_files(folder.certificate, folder.key, folder.ca, folder.crl)
