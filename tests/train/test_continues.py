"""What a resumed run may change, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smolcluster.commands._continues import require_continues
from smolcluster.commands._resume import Found
from smolcluster.errors import ConfigError
from smolcluster.plan.types import Plan
from tests.checkpoint.runs import plan


def changed(made: Plan, **run: Any) -> Plan:
    return made.model_copy(update={"run": made.run.model_copy(update=run)})


@pytest.fixture
def found(tmp_path: Path) -> Found:
    (tmp_path / "plan.json").write_text(plan(2, "fsdp").to_json())
    return Found(tmp_path, 8)


def test_the_same_again_says_nothing(found: Found) -> None:
    assert require_continues(found, plan(2, "fsdp"), "--resume", other_data=False) == []


def test_another_strategy_is_told(found: Found) -> None:
    [note] = require_continues(found, plan(1, "single"), "--resume", other_data=False)
    assert "was fsdp stage 1 on 2 rank(s)" in note
    assert "single on 1 rank(s)" in note


def test_other_data_only_when_they_were_named(found: Found) -> None:
    made = plan(2, "fsdp")
    other = changed(made, data=made.run.data.model_copy(update={"path": "/books/emma.txt"}))
    with pytest.raises(ConfigError, match=r"this run would take /books/emma.txt"):
        require_continues(found, other, "--resume", other_data=False)
    [note] = require_continues(found, other, "--resume", other_data=True)
    assert "goes on with /books/emma.txt" in note


def test_all_mistakes_are_told_at_once(found: Found) -> None:
    made = plan(2, "fsdp")
    other = changed(
        made,
        init="runs/one",
        training=made.run.training.model_copy(update={"max_steps": 8}),
        model=made.run.model.model_copy(update={"num_layers": 9}),
    )
    with pytest.raises(ConfigError) as caught:
        require_continues(found, other, "--resume", other_data=False)
    text = str(caught.value)
    assert "3 problems" in text
    for part in ("not from both", "nothing is left to train", "this run 9"):
        assert part in text


def test_a_run_whose_plan_is_lost_can_be_resumed(tmp_path: Path) -> None:
    assert require_continues(Found(tmp_path, 8), plan(1, "single"), "--resume", other_data=False) == []
