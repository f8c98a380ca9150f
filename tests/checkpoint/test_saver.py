"""One rank's saves: one at a time, and nothing that goes wrong in the thread is lost."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smolcluster.runtime.checkpoint import save
from smolcluster.runtime.checkpoint.agree import Facts
from smolcluster.runtime.checkpoint.save import Saver
from smolcluster.runtime.slices import Box, Slice
from tests.checkpoint.runs import context_of, loaded, plan, state_of


def saver_of(folder: Path, stage: Callable[[str], object]) -> Saver:
    made = plan(1, "single", checkpoint={"keep": 2})
    return Saver(context_of(folder, folder / "data", made, 0), stage)


def facts(step: int, val_loss: float | None = None) -> Facts:
    return Facts(
        step=step, total_steps=99, epoch=0, tokens=step, seconds=1.0, loss_first=1.0, loss_last=1.0,
        val_loss_first=None, val_loss=val_loss, measured=val_loss is not None,
    )  # fmt: skip


def test_the_next_save_waits_and_takes_the_state_of_its_own_moment(tmp_path: Path) -> None:
    go = threading.Event()
    saver = saver_of(tmp_path, lambda _: go.wait(30))
    state = torch.zeros(4)
    slices = [Slice("w", (4,), Box((0,), (4,)), state)]
    saver.save(facts(1), slices)
    state.fill_(2)
    second = threading.Thread(target=lambda: saver.save(facts(2), slices))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "there is one buffer, and it is being written"
    assert not (tmp_path / "checkpoints").exists()
    go.set()
    second.join(30)
    saver.finish()
    assert state_of(tmp_path, 1)["w"].tolist() == [0.0] * 4
    assert state_of(tmp_path, 2)["w"].tolist() == [2.0] * 4


def test_the_last_and_the_best_stay(tmp_path: Path) -> None:
    saver = saver_of(tmp_path, lambda _: None)
    slices = [Slice("w", (1,), Box((0,), (1,)), torch.zeros(1))]
    for step, loss in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, None)):
        saver.save(facts(step, loss), slices)
    saver.finish()
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"step-{step:08d}.json" for step in (2, 4, 5)}
    assert loaded(tmp_path, 2).val_loss == 1.0
    folders = {path.name for path in (tmp_path / "nodes" / "node1" / "checkpoints").iterdir()}
    assert folders == {f"step-{step:08d}" for step in (2, 4, 5)}


def test_a_new_rank_0_knows_the_checkpoints_of_the_one_before_by_its_copies(tmp_path: Path) -> None:
    """What an elastic run keeps whose rank 0 was lost with its disk: the manifests were there."""
    slices = [Slice("w", (1,), Box((0,), (1,)), torch.zeros(1))]
    before = saver_of(tmp_path, lambda _: None)
    for step, loss in ((1, 1.0), (2, 3.0), (3, 2.0)):
        before.save(facts(step, loss), slices)
    before.finish()
    shutil.rmtree(tmp_path / "checkpoints")
    after = saver_of(tmp_path, lambda _: None)
    after.save(facts(4), slices)
    after.finish()
    folders = {path.name for path in (tmp_path / "nodes" / "node1" / "checkpoints").iterdir()}
    assert folders == {f"step-{step:08d}" for step in (1, 3, 4)}


def test_a_bug_in_the_thread_ends_the_run(tmp_path: Path) -> None:
    def broken(stage: str) -> None:
        if stage == "manifest":
            raise ZeroDivisionError

    saver = saver_of(tmp_path, broken)
    saver.save(facts(1), [])
    with pytest.raises(ZeroDivisionError):
        saver.finish()


def test_a_disk_that_hangs_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    saver = saver_of(tmp_path, lambda _: go.wait(30))
    saver.save(facts(1), [])
    monkeypatch.setattr(save, "LONGEST_S", 0.1)
    with pytest.raises(TimeoutError, match="a checkpoint has not been written to"):
        saver.finish()
    go.set()
    saver.abandon()
