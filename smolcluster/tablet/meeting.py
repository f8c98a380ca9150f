"""Where cluster and tablet meet: the app is dialled, a browser's page is served and dials.

address   what a person looks for: the app's host and port, or the page's URL, without the key
connect   a proven connection, waited for     close   no more of them
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from smolcluster.certs.checking import browser_context, check_node
from smolcluster.certs.places import NodeFolder
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import InputError, Problem
from smolcluster.plan.types import TabletPlan
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.door import Door, dial
from smolcluster.tablet.greeting import Self
from smolcluster.tablet.web import TabletSite


class Meeting(Protocol):
    """One tablet's."""

    @property
    def address(self) -> str:
        """For a person."""
        ...

    def connect(self, deadline: Deadline) -> Channel:
        """The next connection. PeerError: there is none."""
        ...

    def close(self) -> None:
        """Idempotent; whoever waits in `connect` gets PeerLostError, at the latest with its deadline."""
        ...


class AtApp:
    """The native app: it listens."""

    def __init__(self, where: Endpoint, me: Self) -> None:
        self._where = where
        self._me = me
        self.address = str(where)

    def connect(self, deadline: Deadline) -> Channel:
        """Dial it."""
        return dial(self._where, self._me, deadline)

    def close(self) -> None:
        """Nothing listens here."""


class AtPage:
    """A browser: it dials where its page came from. `certificates`: HTTPS with this node's, of the authority `ca`.

    PeerError: it cannot listen. ConfigError: no certificate that a browser could accept, or no page.
    """

    def __init__(self, tablet: TabletPlan, me: Self, node: str, certificates: str | None, ca: str) -> None:
        tls = None
        if tablet.tls:
            if certificates is None:
                what = f"the page for {tablet.node} comes by HTTPS, and node.yaml names no certificates of {node}"
                raise InputError([Problem("node.yaml", 0, "certificates", what, "run the playbook again")])
            folder = NodeFolder(Path(certificates))
            check_node(folder, node, ca)
            tls = browser_context(folder)
        self._door = Door((), 0, me)
        self._site = TabletSite(self._door, tablet.host, tablet.port, tls)
        self._site.start()
        self.address = self._site.address

    def connect(self, deadline: Deadline) -> Channel:
        """Wait for it."""
        return self._door.take(deadline)

    def close(self) -> None:
        """Close the door, and then the site, which waits for what has come in."""
        self._door.close()
        self._site.close()
