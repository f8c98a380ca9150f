"""Lookup plugin: the hash of the code that is here (smolcluster/codehash.py), which nodes elsewhere have to have, too.

No variable of the inventory: it takes 40 ms, and only what starts something on nodes elsewhere compares it.

- name: Say which code this is
  smolcluster_say:
    text: "{{ lookup('smolcluster_code') }}"
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.lookup import LookupBase

from smolcluster.codehash import code_hash


class LookupModule(LookupBase):  # type: ignore[misc]
    """One value: 12 hexadecimal digits."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        return [code_hash()]
