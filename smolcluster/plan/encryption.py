"""Which links of a plan run in TLS. Pure: whether there are certificates is an input, the authority's fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smolcluster.spec.built import NOT_ENCRYPTED
from smolcluster.spec.values import is_loopback
from smolcluster.topology import Route


@dataclass(frozen=True)
class Encryption:
    """`wanted` is the config's `encrypt`; `ca` the fingerprint of the cluster's authority, "" where it has none."""

    wanted: Literal["auto", "always", "never"] = "auto"
    ca: str = ""

    def covers(self, route: Route) -> bool:
        """Whether a link on that way runs in TLS: always, or where somebody else may be on a wire of it."""
        if not self.ca or self.wanted == "never":
            return False
        return self.wanted == "always" or not route.private

    def of_api(self, listen: Sequence[str]) -> bool:
        """Whether an API on these addresses speaks HTTPS: beyond loopback, where browsers of other machines come."""
        return bool(self.ca) and self.wanted != "never" and not all(map(is_loopback, listen))


def encryption_notes(encryption: Encryption, routes: Sequence[Route]) -> list[str]:
    """What is in the clear, one note for every wire in use that is more than a loopback."""
    exposed = sorted({name for route in routes for name in route.exposed})
    if encryption.wanted == "never":
        return [f"network {name}: encrypt: never: traffic is authenticated but not encrypted" for name in exposed]
    if not encryption.ca:
        return [f"network {name}: {NOT_ENCRYPTED}" for name in exposed]
    if encryption.wanted == "always":
        return []
    # A way that passes a wire of others is encrypted from end to end.
    clear = {name for route in routes if route.private and route.medium != "loopback" for name in route.networks}
    return [
        f"network {name}: declared private: in the clear (encrypt: always encrypts it too)" for name in sorted(clear)
    ]
