"""How all ranks come to know whether a checkpoint exists: accounts to rank 0, the manifest, the verdict to all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from smolcluster.errors import DeadlineError
from smolcluster.files import explain
from smolcluster.runtime.checkpoint.files import write_whole
from smolcluster.runtime.checkpoint.manifest import (
    Cursor,
    Manifest,
    Place,
    Progress,
    ShardFile,
    StarNote,
    manifest_file,
)
from smolcluster.runtime.checkpoint.notes import Notes
from smolcluster.runtime.checkpoint.replicas import Copy
from smolcluster.runtime.checkpoint.retention import drop_manifests, look_at, to_keep
from smolcluster.runtime.context import RunContext
from smolcluster.spec.base import Frozen

# How long a rank may take to write what another has written. An SD card takes 10 MB a second.
SLOWEST_S = 600.0


class Facts(Frozen):
    """What a rank knows of the run at a checkpoint's step. `tokens` are its own; the rest is the same everywhere."""

    step: int
    total_steps: int
    epoch: int
    tokens: int
    seconds: float
    loss_first: float | None
    loss_last: float | None
    val_loss_first: float | None
    val_loss: float | None
    measured: bool
    val_accuracy: float | None = None
    star: StarNote | None = None


class Account(Frozen):
    """What one rank did of a save. `failures` are for people; without one, `file` is what it wrote.

    `copies` are those it keeps of others' files.
    """

    tokens: int
    file: ShardFile | None
    copies: tuple[Copy, ...] = ()
    failures: tuple[str, ...] = ()


class Verdict(Frozen):
    """What became of a save: the text of the manifest, or why there is none. `kept`: the checkpoints that stay."""

    kind: Literal["verdict"] = "verdict"
    manifest: str = ""
    failures: tuple[str, ...] = ()
    kept: tuple[int, ...] = ()


class Agreement:
    """One rank's side of the agreement, from the thread that saves. Verdicts are given in the order of the saves."""

    def __init__(self, context: RunContext, stage: Callable[[str], None]) -> None:
        self._context = context
        self._stage = stage
        board = context.wires.store
        self._notes = Notes(board) if board is not None and context.world_size > 1 else None
        self._last: str | None = None

    def reach(self, facts: Facts, mine: Account) -> Verdict:
        """Hand in an account; what all of them come to. PeerError if a rank is gone."""
        if self._notes is None:
            return self._decide(facts, [mine])
        room = f"checkpoint/{self._context.generation}/{facts.step}"
        ranks = range(self._context.world_size)
        if self._context.rank != 0:
            self._notes.put(f"{room}/{self._context.rank}", mine.model_dump_json())
            # Rank 0 itself waits that long for the slowest of us, and then writes.
            self._notes.wait([f"{room}/verdict"], 2 * SLOWEST_S)
            return Verdict.model_validate_json(self._notes.get(f"{room}/verdict"))
        others = [f"{room}/{rank}" for rank in ranks if rank]
        try:
            self._notes.wait(others, SLOWEST_S)
        except DeadlineError as error:
            verdict = Verdict(failures=(f"not every rank has written its part: {error}",))
        else:
            accounts = [mine, *(Account.model_validate_json(self._notes.get(key)) for key in others)]
            for key in others:
                self._notes.forget(key)
            if self._last is not None:  # all have read it: they came to the save after it
                self._notes.forget(self._last)
            verdict = self._decide(facts, accounts)
        self._notes.put(f"{room}/verdict", verdict.model_dump_json())
        self._last = f"{room}/verdict"
        return verdict

    def _decide(self, facts: Facts, accounts: Sequence[Account]) -> Verdict:
        """Rank 0: write the manifest if all is well, and take away the checkpoints that go."""
        failures = (*(text for account in accounts for text in account.failures), *_wrong_copies(accounts))
        if failures:
            return Verdict(failures=failures)
        folder = self._context.folder
        text = manifest_of(self._context, facts, accounts).to_json()
        self._stage("manifest")
        path = manifest_file(folder, facts.step)
        try:
            write_whole(path, [text.encode()])
        except OSError as error:
            node = self._context.me.node
            return Verdict(failures=(f"{node} could not write {path}: {explain(error)}",))
        self._stage("exists")
        found = look_at(folder, self._context.me.node)
        kept = to_keep(found.losses, facts.step, self._context.run.checkpoint) | found.unreadable
        drop_manifests(folder, facts.step, kept)
        self._stage("dropped manifests")
        return Verdict(manifest=text, kept=tuple(sorted(kept)))


def _wrong_copies(accounts: Sequence[Account]) -> tuple[str, ...]:
    """Copies that are not what was sent: memory or a wire that changes bytes."""
    hashes = {account.file.rank: account.file.sha256 for account in accounts if account.file is not None}
    return tuple(
        f"{copy.place.node} did not get rank {copy.rank}'s file as it was sent. Fix: test the memory of both machines"
        for account in accounts
        for copy in account.copies
        if hashes.get(copy.rank, copy.sha256) != copy.sha256
    )


def manifest_of(context: RunContext, facts: Facts, accounts: Sequence[Account]) -> Manifest:
    """The manifest of a checkpoint whose files all lie in their places."""
    copies: dict[int, list[Place]] = {}
    for account in accounts:
        for copy in account.copies:
            copies.setdefault(copy.rank, []).append(copy.place)
    files = [account.file for account in accounts if account.file is not None]
    assert len(files) == context.world_size, "an account without a failure has a file"
    run = context.run
    return Manifest(
        run_id=context.run_id,
        generation=context.generation,
        step=facts.step,
        total_steps=facts.total_steps,
        world_size=context.world_size,
        strategy=run.strategy,
        stage=run.fsdp_stage,
        plan_digest=context.plan.digest(),
        model=run.model,
        val_loss=facts.val_loss if facts.measured else None,
        progress=Progress(
            tokens=tuple(account.tokens for account in accounts),
            seconds=facts.seconds,
            loss_first=facts.loss_first,
            loss_last=facts.loss_last,
            val_loss_first=facts.val_loss_first,
            val_loss=facts.val_loss,
            val_accuracy=facts.val_accuracy,
        ),
        cursor=Cursor(
            epoch=facts.epoch,
            step=facts.step,
            seed=run.seed,
            global_batch=context.plan.global_batch,
            dataset=context.data_dir.name,
        ),
        files=tuple(
            file.model_copy(update={"places": (*file.places, *copies.get(file.rank, ()))})
            for file in sorted(files, key=lambda file: file.rank)
        ),
        star=facts.star,
    )
