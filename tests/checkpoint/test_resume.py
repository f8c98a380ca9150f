"""Any world size, strategy and stage goes on from what another wrote; the same plan goes on bit by bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smolcluster.errors import InputError
from smolcluster.jobs.nodefile import load_node
from smolcluster.runtime.results import read_result
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.train.part import train_part
from tests.checkpoint.jobs import call, load, train
from tests.checkpoint.runs import loaded, plan, same, state_of, write_run
from tests.comm.pool import Pool
from tests.steps import read_metrics

STEPS = 12
WRITERS = [
    (1, "single", 0),
    (2, "classicdp", 0),
    (3, "fsdp", 1),
    (3, "fsdp", 3),
    (2, "fsdp", 2),
    (2, "fsdp", 0),
    (3, "diloco", 0),
]
READERS = [
    (1, "single", 0),
    (2, "fsdp", 3),
    (3, "classicdp", 0),
    (3, "fsdp", 2),
    (2, "fsdp", 1),
    (3, "fsdp", 0),
    (2, "diloco", 0),
]


def run(pool: Pool, job, world_size: int, *args, **named) -> list:
    """A job at a world size; a rank alone needs no group."""
    return [job(None, *args, **named)] if world_size == 1 else pool.run(world_size, call, job, args, named)


def losses(folder: Path) -> dict[int, float]:
    steps = [record.step for record in read_metrics(RunFolder(folder).metrics("node1", 0))[0]]
    assert steps == sorted(set(steps)), "a step is there twice"
    return {record.step: record.loss for record in read_metrics(RunFolder(folder).metrics("node1", 0))[0]}


@pytest.mark.parametrize("writer", WRITERS, ids=lambda w: f"{w[1]}-{w[2]}-at-{w[0]}")
def test_written_by_one_and_read_by_all(pool: Pool, data: Path, tmp_path: Path, writer: tuple[int, str, int]) -> None:
    world_size, strategy, stage = writer
    made = plan(world_size, strategy, stage, max_steps=3, eval_steps=100)
    run(pool, train, world_size, tmp_path, data, made)
    for other, name, number in READERS:
        reading = plan(other, name, number)
        assert run(pool, load, other, tmp_path, data, reading, 3, tmp_path) == [[]] * other


@pytest.mark.parametrize(("world_size", "strategy", "stage"), [(1, "single", 0), (2, "classicdp", 0), (3, "fsdp", 3)])
def test_a_restart_is_bit_equal_to_an_undisturbed_run(
    pool: Pool, data: Path, tmp_path: Path, world_size: int, strategy: str, stage: int
) -> None:
    made = plan(world_size, strategy, stage, max_steps=STEPS)
    whole = run(pool, train, world_size, tmp_path / "whole", data, made)
    run(pool, train, world_size, tmp_path / "cut", data, made, stop_at=7)
    assert loaded(tmp_path / "cut", 7).progress.val_loss == losses_of_val(tmp_path / "cut")
    again = run(pool, train, world_size, tmp_path / "cut", data, made, generation=1)
    assert same(state_of(tmp_path / "whole", STEPS), state_of(tmp_path / "cut", STEPS))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for one, other in zip(whole, again, strict=True):
        assert (one.steps, one.tokens, one.loss_first, one.val_loss) == (
            other.steps,
            other.tokens,
            other.loss_first,
            other.val_loss,
        )
        assert (other.resumed_from, other.resumed_step) == ("cut", 7)
        assert one.resumed_step is None


def losses_of_val(folder: Path) -> float:
    """The last validation loss before the stop: of step 5."""
    records = read_metrics(RunFolder(folder).metrics("node1", 0))[0]
    return [record.val_loss for record in records if record.val_loss is not None][-1]


def test_another_plan_goes_on_as_one_process_would(pool: Pool, data: Path, tmp_path: Path) -> None:
    steps = 24
    run(pool, train, 1, tmp_path / "whole", data, plan(1, "single", max_steps=steps))
    run(pool, train, 3, tmp_path / "first", data, plan(3, "fsdp", 1, max_steps=steps), stop_at=4)
    before = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()}
    for name, made in {"a": plan(2, "fsdp", 3, max_steps=steps), "b": plan(1, "single", max_steps=steps)}.items():
        world_size = made.world_size
        accounts = run(pool, train, world_size, tmp_path / name, data, made, resume=tmp_path / "first")
        here, whole = losses(tmp_path / name), losses(tmp_path / "whole")
        assert sorted(here) == list(range(5, steps + 1))
        assert all(loss == pytest.approx(whole[step], abs=1e-5) for step, loss in here.items())
        assert sum(account.tokens for account in accounts) == steps * 6 * 16
        assert accounts[0].loss_first == pytest.approx(whole[1], abs=1e-5)
    assert before == {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()}


def test_a_restart_before_the_first_checkpoint_starts_anew(data: Path, tmp_path: Path) -> None:
    made = plan(1, "single", max_steps=3)
    train(None, tmp_path, data, made)
    for path in [*tmp_path.rglob("step-*.json"), *tmp_path.rglob("manifest.json")]:
        path.unlink()
    account = train(None, tmp_path, data, made, generation=1)
    assert (account.steps, account.resumed_step) == (3, None)
    assert sorted(losses(tmp_path)) == [1, 2, 3]


def test_a_run_that_is_named_must_have_a_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint in it can be used: \(there is none\)"):
        train(None, tmp_path / "new", data, plan(1, "single"), resume=tmp_path / "old")


def test_a_result_names_an_earlier_run_and_never_its_own(data: Path, tmp_path: Path) -> None:
    def start(name: str, steps: int, resume: Path | None = None) -> tuple[str, int | None, int, int]:
        made = plan(1, "single", checkpoint={"every_steps": 2}, max_steps=steps)
        [file] = write_run(tmp_path / name, made, data, sys.executable)
        config = load_node(file).model_copy(update={"resume_from": str(resume) if resume else None})
        assert train_part(config, made, made.ranks[0], lambda: False) == 0
        result = read_result(RunFolder(tmp_path / name), "node1", 0)
        assert result is not None
        return result.resumed_from, result.resumed_step, result.generation, result.steps

    assert start("one", 2) == ("", None, 0, 2)
    assert start("one", 4) == ("", None, 1, 4), "a restart in place"
    assert start("two", 6, tmp_path / "one") == ("one", 4, 0, 6)
    assert start("two", 8, tmp_path / "one") == ("one", 4, 1, 8), "resumed, then restarted in place"
