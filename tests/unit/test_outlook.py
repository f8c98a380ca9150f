"""What shares of the batch by speed would bring: offered wherever a plan has them, and weighed before the fastest
machine is told to be quicker alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smolcluster.cli import app_of, run_app

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
# In diloco a machine takes fewer steps of a round; the third cannot take even one while the first takes all.
UNEQUAL = (90_000, 30_000, 900)
CHANGE = "shares of the batch by speed"


def check(
    folder: Path, capsys: pytest.CaptureFixture[str], speeds: tuple[int, int, int], *flags: str
) -> tuple[dict[str, Any], str]:
    """check.json, and what was printed, of the shipped machines at these speeds."""
    by_name = {f"node{number}": speed for number, speed in enumerate(speeds, 1)}
    (folder / "profile.json").write_text(json.dumps({"schema": 1, "speeds": by_name}))
    asked = ("-i", str(LOCAL), "--profile", str(folder / "profile.json"), "--out", str(folder / "check"))
    assert run_app(app_of(), ["doctor", *asked, *flags]) == 0, capsys.readouterr()
    return dict(json.loads((folder / "check" / "check.json").read_text())), " ".join(capsys.readouterr().out.split())


def rate(told: dict[str, Any]) -> float:
    """Of what was asked for."""
    return float(next(row["tokens_per_s"] for row in told["predictions"] if row["strategy"] == told["strategy"]))


@pytest.mark.parametrize("strategy", ["classicdp", "diloco"])
def test_what_is_promised_of_shares_by_speed_is_what_is_predicted_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    flags = ("--strategy", strategy)
    even, _ = check(tmp_path, capsys, UNEQUAL, *flags)
    [gain] = [one for one in even["gains"] if one["change"] == CHANGE]
    assert gain["how"] == "-e override=balance=auto"
    assert gain["tokens_per_s_before"] == rate(even)
    auto, _ = check(tmp_path, capsys, UNEQUAL, *flags, "--override", "balance=auto")
    assert rate(auto) == pytest.approx(gain["tokens_per_s_after"], rel=1e-3)
    assert rate(auto) > 1.2 * rate(even)
    assert CHANGE not in {one["change"] for one in auto["gains"]}


@pytest.mark.parametrize("strategy", ["mp", "edp", "syncps", "single"])
def test_they_are_not_offered_where_nobody_waits_for_a_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    told, _ = check(tmp_path, capsys, UNEQUAL, "--strategy", strategy)
    assert CHANGE not in {one["change"] for one in told["gains"]}


def test_alone_is_quicker_only_as_the_batch_is_shared_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told, said = check(tmp_path, capsys, UNEQUAL, "--strategy", "diloco")
    alone = told["alone"]
    assert (alone["node"], alone["quicker"]) == ("node1", True)
    assert alone["by_speed_tokens_per_s"] > alone["tokens_per_s"]
    assert (
        f"node1 alone: {alone['tokens_per_s']:,.0f} tokens/s, quicker than all together as the batch is shared now;"
        f" {alone['by_speed']} with shares by speed (balance=auto): {alone['by_speed_tokens_per_s']:,.0f}" in said
    )


def test_alone_is_slower_or_quicker_however_the_batch_is_shared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, equal = check(tmp_path, capsys, (3000, 3000, 3000), "--strategy", "diloco")
    assert "slower than the best of all together" in equal
    told, far = check(tmp_path, capsys, (900_000_000, 3000, 600), "--strategy", "diloco")
    assert told["alone"]["by_speed_tokens_per_s"] < told["alone"]["tokens_per_s"]
    assert "quicker than all together, with shares of the batch by speed too" in far
    _, auto = check(tmp_path, capsys, (900_000_000, 3000, 600), "--strategy", "diloco", "--override", "balance=auto")
    assert "tokens/s, quicker than all together " in auto
