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
    assert require_continues(found, plan(2, "fsdp"), "--resume") == []


def test_another_strategy_is_told(found: Found) -> None:
    [note] = require_continues(found, plan(1, "single"), "--resume")
    assert "was fsdp stage 1 on 2 rank(s)" in note
    assert "single on 1 rank(s)" in note


def test_other_data_are_told(found: Found) -> None:
    made = plan(2, "fsdp")
    other = changed(made, data=made.run.data.model_copy(update={"path": "/books/emma.txt"}))
    [note] = require_continues(found, other, "--resume")
    assert "was trained on text, tokenizer bpe:300, this run goes on with /books/emma.txt" in note
    assert "trained anew" in note
    assert "keeps" not in note, "the run has no model folder yet"
    (found.folder / "model").mkdir()
    (found.folder / "model" / "tokenizer.json").touch()
    assert f"--override data.tokenizer={found.folder}/model keeps" in require_continues(found, other, "--resume")[0]


def test_all_mistakes_are_told_at_once(found: Found) -> None:
    made = plan(2, "fsdp")
    other = changed(
        made,
        init="runs/one",
        training=made.run.training.model_copy(update={"max_steps": 8}),
        model=made.run.model.model_copy(update={"num_layers": 9}),
    )
    with pytest.raises(ConfigError) as caught:
        require_continues(found, other, "--resume")
    text = str(caught.value)
    assert "3 problems" in text
    for part in ("not from both", "nothing is left to train", "this run 9"):
        assert part in text


def test_a_run_whose_plan_is_lost_can_be_resumed(tmp_path: Path) -> None:
    [note] = require_continues(Found(tmp_path, 8), plan(1, "single"), "--resume")
    assert "its settings are not known" in note
