"""A staleness bound that nobody chose gives way to what was chosen; one that was written is another test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.spec.request import Request, Resolved
from smolcluster.spec.resolve import resolve
from smolcluster.spec.staleness import GLOO, STAGE_3

HOME = Path(__file__).resolve().parents[2] / "inventory" / "home.smol.yml"


def resolved(strategy: str, *overrides: str) -> Resolved:
    return resolve(Request(HOME, strategy, overrides=overrides))


@pytest.mark.parametrize("strategy", ["classicdp", "fsdp"])
def test_the_shipped_bound_is_the_documentation_s(strategy: str) -> None:
    found = resolved(strategy)
    assert (found.run.staleness_bound, found.notes) == (5, ())
    assert resolved(strategy, "staleness_bound=0").run.staleness_bound == 0


@pytest.mark.parametrize("strategy", ["single", "mp", "diloco", "edp", "syncps"])
def test_others_have_none(strategy: str) -> None:
    assert resolved(strategy).run.staleness_bound == 0


@pytest.mark.parametrize(
    ("strategy", "override", "why"),
    [("fsdp", "fsdp_stage=3", STAGE_3), ("fsdp", "transport=gloo", GLOO), ("classicdp", "transport=gloo", GLOO)],
)
def test_what_was_chosen_is_taken_instead_and_a_note_says_so(strategy: str, override: str, why: str) -> None:
    found = resolved(strategy, override)
    assert found.run.staleness_bound == 0
    [note] = found.notes
    assert note.endswith(f"staleness_bound: said 5, taken: 0 ({why})")
