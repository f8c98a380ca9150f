"""The settings of a run that is resumed: taken whole, unless something else is said for the new run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.request import Request, Resolved
from smolcluster.spec.resolve import resolve
from smolcluster.spec.resumed import Earlier
from smolcluster.spec.run import GPTSpec

LOCAL = Path(__file__).resolve().parents[2] / "inventory" / "local.smol.yml"
PLAN = Path("runs/before/plan.json")


def run(*overrides: str, strategy: str = "fsdp", model: str = "gpt", **more: object) -> Resolved:
    return resolve(Request(LOCAL, strategy, model=model, overrides=overrides, **more))  # type: ignore[arg-type]


def resumed(before: Resolved, *overrides: str, **more: object) -> Resolved:
    asked = {"strategy": before.run.strategy, "model": before.run.model.type, **more}
    return run(*overrides, earlier=Earlier(PLAN, "f00d", before.run), **asked)  # type: ignore[arg-type]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("It is a truth universally acknowledged.\n" * 50)
    return path


@pytest.mark.parametrize(
    ("strategy", "model", "overrides"),
    [
        ("fsdp", "gpt", ()),
        ("single", "nn", ()),
        ("classicdp", "nn", ("num_epochs=7", "batch_size=20", "model.hidden=64", "training.grad_clip_norm=0.5")),
        ("fsdp", "gpt", ("fsdp_stage=3", "seed=7", "training.max_steps=null", "training.epochs=4")),
        ("fsdp", "gpt", ("gradient_clipping.enabled=false", "training.precision=bf16", "training.grad_accumulation=2")),
        ("fsdp", "gpt", ("lr_schedule.min_lr=null", "lr_schedule.warmup_iters=3", "training.weight_decay=0.1")),
        ("classicdp", "gpt", ("data.dataset=wikitext2", "data.streaming=true", "checkpoint.every_steps=7")),
        ("fsdp", "gpt", ("recovery.elastic=true", "recovery.max_restarts=9", "recovery.elastic_wait=5")),
        ("single", "gpt", ("model.dropout=0.3", "model.tie_embeddings=false", "model.vocab_size=999")),
        ("single", "gpt", ("training.max_steps=10", "logging.project_name=mine", "training.track_gradients=true")),
    ],
)
def test_resume_alone_is_the_same_run_again(strategy: str, model: str, overrides: tuple[str, ...]) -> None:
    before = run(*overrides, strategy=strategy, model=model)
    after = resumed(before)
    assert after.run == before.run
    assert f"are taken from {PLAN}, where nothing else was said" in " ".join(after.notes)
    assert after.inputs[str(PLAN)] == "f00d"
    assert resumed(after).run == before.run


def test_own_text_and_its_tokenizer_stay(book: Path) -> None:
    before = run("data.tokenizer=bpe:300", dataset=str(book))
    assert resumed(before).run.data == before.run.data
    assert resumed(before).run.data.path == str(book)
    other = resumed(before, dataset="pydoc").run
    assert (other.data.dataset, other.data.path, other.data.tokenizer) == ("pydoc", None, "bpe:300")
    assert other.training == before.run.training


def test_text_that_is_gone_is_told_at_the_plan_that_names_it(book: Path) -> None:
    before = run(dataset=str(book))
    book.unlink()
    with pytest.raises(ConfigError) as caught:
        resumed(before)
    assert f"{PLAN}: data.path: there is no file or folder" in str(caught.value)


def test_what_is_said_for_this_run_wins(tmp_path: Path) -> None:
    before = run("training.max_steps=20", "training.learning_rate=0.002", "training.batch_size=4", "fsdp_stage=2")
    config = tmp_path / "mine.yaml"
    config.write_text("training:\n  batch_size: 2\n  eval_steps: 7\n")
    after = resumed(before, "training.max_steps=40", "fsdp_stage=3", config=config).run
    assert after.training == before.run.training.model_copy(update={"max_steps": 40, "batch_size": 2, "eval_steps": 7})
    assert after.fsdp_stage == 3
    assert after.schedule == before.run.schedule


def test_what_every_run_shares_does_not(tmp_path: Path) -> None:
    (tmp_path / "inventory" / "configs").mkdir(parents=True)
    inventory = tmp_path / "inventory" / "local.smol.yml"
    inventory.write_text(LOCAL.read_text().replace("batch_size: 8", "batch_size: 99"))
    (tmp_path / "inventory" / "configs" / "gpt_config.yaml").write_text("training: {weight_decay: 0.5}\n")
    before = run()
    after = resolve(Request(inventory, "fsdp", earlier=Earlier(PLAN, "f00d", before.run)))
    assert (after.run.training.batch_size, after.run.training.weight_decay) == (8, before.run.training.weight_decay)


def test_another_rate_than_a_constant_one_is_constant_too() -> None:
    before = run("lr_schedule.min_lr=null", "training.learning_rate=0.002")
    after = resumed(before, "training.learning_rate=0.001").run
    assert (after.training.learning_rate, after.schedule.min_lr) == (0.001, 0.001)


def test_fewer_steps_than_its_warm_up_shorten_it() -> None:
    before = run("training.max_steps=200", "lr_schedule.warmup_iters=50")
    after = resumed(before, "training.max_steps=40")
    assert after.run.schedule.warmup_iters == 4
    assert f"{PLAN}: lr_schedule.warmup_iters: said 50, taken: 4" in " ".join(after.notes)


def test_another_strategy_takes_what_is_not_of_its_own() -> None:
    before = run("fsdp_stage=3", "seed=7", "recovery.max_restarts=1", "training.max_steps=30")
    after = resumed(before, strategy="classicdp").run
    assert (after.strategy, after.seed, after.recovery.max_restarts, after.training.max_steps) == (
        "classicdp",
        7,
        1,
        30,
    )
    assert after.fsdp_stage == 0


def test_wires_are_the_cluster_s_and_faults_are_not_taken() -> None:
    before = run("wire=int8", "faults=[{kind: crash, rank: 1, step: 20}]", "training.max_steps=30")
    assert (before.run.comm.wire, len(before.run.faults)) == ("int8", 1)
    after = resumed(before).run
    assert (after.comm.wire, after.faults, after.training.max_steps) == ("fp32", (), 30)
    again = resumed(before, "wire=bf16", "faults=[{kind: crash, rank: 2, step: 25}]").run
    assert (again.comm.wire, [fault.told() for fault in again.faults]) == ("bf16", ["crash of rank 2 at step 25"])


def test_another_model_takes_nothing_of_the_model() -> None:
    before = run("training.max_steps=30", "seed=7")
    after = resumed(before, model="nn").run
    assert (after.model, after.training, after.seed) == (run(model="nn").run.model, run(model="nn").run.training, 7)


def test_positions_and_vocabulary_of_given_weights_stay() -> None:
    before = run()
    assert isinstance(before.run.model, GPTSpec)
    longer = before.run.model.model_copy(update={"num_positions": 1024, "vocab_size": 50_000})
    given = replace(before, run=before.run.model_copy(update={"model": longer, "init": "/models/gpt2"}))
    after = resumed(given)
    assert (after.run.model, after.run.init, after.run.own_vocabulary) == (longer, None, True)
    assert resumed(after).run == after.run
    assert not before.run.own_vocabulary


def test_what_was_wrong_with_flags_is_told_with_all_else() -> None:
    flag = Problem("--resume nothing", 0, "", "there is no /runs/nothing", "name another")
    with pytest.raises(ConfigError) as caught:
        run("training.batch_sise=1", "fsdp_stage=8", problems=(flag,), dataset="nothing-here")
    assert [problem.file for problem in caught.value.problems] == [
        "--override fsdp_stage=8", "--override training.batch_sise=1", "--resume nothing",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        run("fsdp_stage=2", problems=(flag,), strategy="fdsp")
    assert [problem.file for problem in caught.value.problems] == ["--resume nothing", "--strategy fdsp"]
