"""What was decided before a run, of whatever kind: every setting, and what its plan noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.observe.page.markup import Markup, section, table, tag


def config(flat: Mapping[str, str], notes: Sequence[str] = ()) -> Markup:
    """The settings by their dotted keys, folded up."""
    rows: list[list[object]] = [[key, value] for key, value in flat.items()]
    said = tag("ul", *(tag("li", note) for note in notes)) if notes else ""
    every = tag("details", tag("summary", "all settings"), table(["key", "value"], rows, left=2))
    return section("Config", said, every)
