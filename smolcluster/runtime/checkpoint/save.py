"""Saving beside the training: a copy of the state at a step boundary, written by a thread while the steps go on.

The thread of each rank writes the rank's file, tells rank 0 its hash, and learns whether the checkpoint exists: it does
when rank 0 has written the manifest. If anybody fails nobody keeps anything, the former checkpoint stays, and the
training goes on. No collective of the training is touched; what is told goes through the store.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable

from smolcluster.errors import PeerError
from smolcluster.files import explain
from smolcluster.runtime.checkpoint.agree import SLOWEST_S, Account, Agreement, Facts, Verdict
from smolcluster.runtime.checkpoint.files import write_whole
from smolcluster.runtime.checkpoint.manifest import MANIFEST_COPY, Place, ShardFile, shard_name, step_folder
from smolcluster.runtime.checkpoint.replicas import Received, Replicas
from smolcluster.runtime.checkpoint.retention import drop_files, drop_step
from smolcluster.runtime.checkpoint.snapshot import Camera, Snapshot
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import Slice

log = logging.getLogger(__name__)

# How long one save may last. The next one waits for it: two at once would need twice the memory.
LONGEST_S = 3 * SLOWEST_S
# A wait that people should hear of.
LONG_WAIT_S = 1.0
# After a failure of the run nobody waits for a save that cannot succeed any more.
ABANDON_S = 5.0


def _pass(_: str) -> None:
    """No stage of a save is looked at."""


class Saver:
    """One rank's saves, one after the other. All ranks save at the same steps.

    `stage` is called in the saving thread before each part of a save, with its name: tests stop or kill it there.
    """

    def __init__(self, context: RunContext, stage: Callable[[str], None] = _pass) -> None:
        self._context = context
        self._stage = stage
        self._camera = Camera()
        self._agreement = Agreement(context, stage)
        self._replicas = Replicas(context, LONGEST_S) if context.run.checkpoint.every_steps else None
        self._thread: threading.Thread | None = None
        self._bug: BaseException | None = None
        self.waited_s = 0.0
        self.begun_step: int | None = None

    def save(self, facts: Facts, slices: Iterable[Slice]) -> None:
        """Copy the state and have it written. Waits for the save before, if that is not done yet."""
        before = time.monotonic()
        self.finish()
        waited_s = time.monotonic() - before
        self.waited_s += waited_s
        if waited_s > LONG_WAIT_S:
            where = f"{self._context.me.node} ({self._context.folder.path})"
            advice = "raise checkpoint.every_steps, or give it a faster disk"
            log.warning(
                "training waited %.1f s for the checkpoint before: %s is slow. Fix: %s", waited_s, where, advice
            )
        snapshot = self._camera.take(slices)
        self.begun_step = facts.step
        self._thread = threading.Thread(target=self._run, args=(facts, snapshot), name="smol-checkpoint", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether what was begun is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def finish(self) -> None:
        """Wait until what was begun is done. TimeoutError (an OSError) if the disk takes for ever."""
        if self._thread is not None:
            self._thread.join(LONGEST_S)
            if self._thread.is_alive():
                what = f"a checkpoint has not been written to {self._context.folder.path} for {LONGEST_S:.0f} s"
                raise TimeoutError(errno.ETIMEDOUT, what)
            self._thread = None
        if self._bug is not None:
            raise self._bug

    def abandon(self) -> None:
        """The run failed: give what was begun a moment."""
        if self._thread is not None:
            self._thread.join(ABANDON_S)

    def _run(self, facts: Facts, snapshot: Snapshot) -> None:
        try:
            mine = self._write(facts, snapshot)
            self._stage("told")
            self._settle(facts, mine, self._agreement.reach(facts, mine))
        except PeerError as error:  # the training meets it too, and ends the run
            log.warning("the checkpoint of step %d was not finished: %s", facts.step, error)
        except BaseException as error:  # noqa: BLE001  raised where the training waits for this thread
            self._bug = error

    def _write(self, facts: Facts, snapshot: Snapshot) -> Account:
        """This rank's file, and the copies it keeps of others'."""
        context = self._context
        path = step_folder(context.folder, context.me.node, facts.step) / shard_name(context.rank)
        self._stage("begin")

        def watched() -> Iterable[bytes | memoryview]:
            for chunk in snapshot.chunks():
                yield chunk
                self._stage("writing")

        file, failures = None, []
        try:
            written = write_whole(path, watched())
        except OSError as error:
            failures.append(f"{context.me.node} could not write {path}: {explain(error)}")
        else:
            place = Place(node=context.me.node, name=path.name)
            file = ShardFile(
                rank=context.rank,
                bytes=written.bytes,
                sha256=written.sha256,
                places=(place,),
                entries=snapshot.entries,
            )
        self._stage("written")
        received = self._replicas.exchange(snapshot, path.parent) if self._replicas else Received()
        self._stage("copied")
        failures += received.failures
        return Account(tokens=facts.tokens, file=file, copies=tuple(received.copies), failures=tuple(failures))

    def _settle(self, facts: Facts, mine: Account, verdict: Verdict) -> None:
        """Do what all ranks agreed on."""
        context, step = self._context, facts.step
        if not verdict.manifest:
            names = [shard_name(context.rank), *(copy.place.name for copy in mine.copies)]
            drop_step(context.folder, context.me.node, step, names)
            if context.rank == 0 or mine.failures:
                reasons = "\n  ".join(verdict.failures)
                log.warning("NO CHECKPOINT of step %d; training goes on, the one before stays:\n  %s", step, reasons)
            return
        if context.me.local_rank != 0:
            return
        copy = step_folder(context.folder, context.me.node, step) / MANIFEST_COPY
        try:
            write_whole(copy, [verdict.manifest.encode()])
        except OSError as error:  # it is a copy: the checkpoint exists without it
            log.warning("%s could not write %s: %s", context.me.node, copy, explain(error))
        self._stage("copied manifest")
        drop_files(context.folder, context.me.node, step, frozenset(verdict.kept))
        self._stage("dropped files")
        if context.rank == 0:
            log.info("checkpoint of step %d in %s", step, context.folder.checkpoints)
