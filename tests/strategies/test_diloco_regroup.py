"""diloco's group fails on its way to a commit: whoever had committed it, all go on with the same."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from diloco_jobs import regrouped
from strategy_pool import Pool

SHARES = (2, 1, 2)
FAILS_AT = 2


def run(pool: Pool, fate: str, **outer: Any) -> list[dict[str, Any]]:
    return pool.run("smol", 3, functools.partial(regrouped, outer_every=4, **outer), SHARES, FAILS_AT, fate)


@pytest.mark.parametrize("fate", ["nobody", "rank 0"])
@pytest.mark.parametrize(("wire", "momentum"), [("int8", 0.9), ("fp32", 0.0)])
def test_ranks_that_were_all_there_go_on_as_if_nothing_had_been(
    pool: Pool, fate: str, wire: str, momentum: float
) -> None:
    """Done again, or committed by those who had the sum: bit by bit the round that the failed group would have made."""
    undisturbed = run(pool, "nothing", wire=wire, outer_momentum=momentum)
    for got, expected in zip(run(pool, fate, wire=wire, outer_momentum=momentum), undisturbed, strict=True):
        assert got["same"]
        assert (got["samples"], got["rounds"]) == (expected["samples"], expected["rounds"])
        assert got["taken"] == expected["taken"]
        assert all(torch.equal(value, expected["state"][name]) for name, value in got["state"].items())
        assert (got["owed"] is None) == (wire == "fp32")
        assert got["owed"] is None or torch.equal(got["owed"], expected["owed"])


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("fate", ["nobody", "rank 0", "all but the new"])
def test_replicas_are_the_same_and_no_sample_comes_twice(pool: Pool, fate: str, overlap: bool) -> None:
    ranks = run(pool, fate, wire="int8", outer_overlap=overlap)
    assert all(got["same"] for got in ranks)
    assert all(torch.equal(v, ranks[0]["state"][name]) for got in ranks for name, v in got["state"].items())
    assert all(len(set(got["taken"])) == len(got["taken"]) for got in ranks)
    did = sum(len(got["taken"]) * share for got, share in zip(ranks, SHARES, strict=True))
    lost = did - ranks[0]["samples"]
    assert {got["samples"] for got in ranks} == {ranks[0]["samples"]}
    if fate == "all but the new":
        # It has forgotten what it did since the last commit, and where it was: all go on where nobody has been.
        assert 0 <= lost <= 4 * SHARES[1]
        been = max(got["before"] for got in ranks)
        assert all(n > been for got in ranks for n in got["taken"] if n > got["before"])
    else:
        assert lost == 0
