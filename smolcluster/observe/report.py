"""What a run was, from what it left in its folder. Pure: reads, decides, writes nothing.

It also works on a folder that is not whole: a node that could not be reached when the rest was collected has no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from smolcluster.errors import ConfigError, InputError, Problem
from smolcluster.observe.idle import idle_account
from smolcluster.observe.records import Reader
from smolcluster.observe.staleness import staleness_account
from smolcluster.plan.elastic import plan_for
from smolcluster.plan.types import Plan, ProfilePlan, RankPlan, ServePlan
from smolcluster.runtime.generation import read_generation
from smolcluster.runtime.metricsfile import GradientRecord, LinkRecord, StepRecord
from smolcluster.runtime.runfolder import RankResult, RunFolder, Status, Summary, run_at
from smolcluster.runtime.scores import perplexity

PEER_FAILED = 3
# The codes of errors.py; anything else (a signal's 137) is a rank that was there no more.
KNOWN_CODES = frozenset({0, 1, 2, 3, 4, 130})
TAIL_LINES = 15
# A log of a long run is read from its end only.
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Totals:
    """Sums over recorded steps, made in one pass. `steps`: a rank's own, where a record is a round of several."""

    steps: int
    tokens: int
    seconds: float
    compute_s: float
    comm_s: float
    data_s: float
    bytes_out: int
    bytes_in: int

    @classmethod
    def of(cls, records: Iterable[StepRecord]) -> Totals:
        """The sums."""
        steps = tokens = bytes_out = bytes_in = 0
        seconds = compute_s = comm_s = data_s = 0.0
        for record in records:
            steps += record.own_steps
            tokens += record.tokens
            seconds += record.step_s
            compute_s += record.compute_s
            comm_s += record.comm_s
            data_s += record.data_s
            bytes_out += record.bytes_out
            bytes_in += record.bytes_in
        return cls(steps, tokens, seconds, compute_s, comm_s, data_s, bytes_out, bytes_in)


@dataclass(frozen=True)
class RankStory:
    """All that one rank left: `result` None means it left none."""

    plan: RankPlan
    result: RankResult | None
    steps: tuple[StepRecord, ...]
    links: tuple[LinkRecord, ...]
    gradients: tuple[GradientRecord, ...] = ()

    @cached_property
    def totals(self) -> Totals:
        """Of all its recorded steps."""
        return Totals.of(self.steps)


@dataclass(frozen=True)
class Culprit:
    """The rank that failed first, why, and the last lines it wrote."""

    rank: int
    node: str
    reason: str
    exit_code: int
    tail: tuple[str, ...]
    root_cause: bool = False


@dataclass(frozen=True)
class RunStory:
    """The folder of a training, read."""

    run_id: str
    plan: Plan
    ranks: tuple[RankStory, ...]
    generation: int
    restarts: int
    culprit: Culprit | None
    notes: tuple[str, ...] = ()

    @cached_property
    def aligned(self) -> list[tuple[StepRecord, ...]]:
        """The records of each counted rank that has any, at the steps that all of these recorded."""
        return aligned([rank.steps for rank in self.counted if rank.steps])

    @cached_property
    def has_server(self) -> bool:
        """Whether rank 0 tells of the whole run: workers come and go, and count steps of their own."""
        return self.plan.shape == "STAR"

    @property
    def plan_at_last(self) -> Plan | None:
        """The plan of those who took part at last; None where they had no room for it, which is why the run ended."""
        try:
            return plan_for(self.plan, [rank.plan.rank for rank in self.ranks])
        except ConfigError:
            return None

    @property
    def counted(self) -> tuple[RankStory, ...]:
        """The ranks whose steps are those of the run."""
        return self.ranks[:1] if self.has_server else self.ranks


def read_run(path: Path) -> RunStory:
    """Read a training's folder; `notes` say what was damaged and skipped. InputError if it is none, or of another
    version."""
    folder = RunFolder(run_at(path))
    reader = Reader()
    plan = plan_in(path, reader)
    if isinstance(plan, ServePlan | ProfilePlan):
        did = "served a model" if isinstance(plan, ServePlan) else "measured machines and wires"
        what = f"is a run that {did}; nothing was trained in it"
        raise InputError([Problem(str(path), 0, "", what, "name a run of train.yml")])
    taking_part = _taking_part(folder, plan, reader)
    ranks = tuple(_rank_story(folder, rank, reader) for rank in taking_part)
    jobs = [reader.job(folder.job_state(node)) for node in dict.fromkeys(rank.node for rank in plan.ranks)]
    generation = max((job.generation for job in jobs if job is not None), default=0)
    restarts = max((job.restarts for job in jobs if job is not None), default=0)
    culprit = culprit_of(folder, ranks)
    if plan.shape == "STAR" and culprit is not None and _did(ranks[0]):
        reader.notes.append(
            f"rank {culprit.rank} on {culprit.node} was lost, the run went on without: {culprit.reason}"
        )
        culprit = None
    return RunStory(folder.path.name, plan, ranks, generation, restarts, culprit, tuple(reader.notes))


def _did(rank: RankStory) -> bool:
    return rank.result is not None and rank.result.status != "failed"


def plan_in(path: Path, reader: Reader) -> Plan | ServePlan:
    """The plan of a run folder. InputError if it is none."""
    plan = reader.plan(RunFolder(run_at(path)).plan)
    if plan is None:
        unreadable = "is not a run folder: it has no plan.json that can be read"
        what = unreadable if path.exists() else "there is no such run"
        raise InputError([Problem(str(path), 0, "", what, "give a folder under runs/, or runs/latest")])
    return plan


def summary_of(path: Path) -> Summary:
    """The summary of the run in that folder. InputError if it is no run folder."""
    return summarise(read_run(path))


def summarise(story: RunStory) -> Summary:
    """The summary of a run that was read."""
    results = [rank.result for rank in story.counted if rank.result is not None]
    status, exit_code, reason = ending_of(story.culprit, results)
    first = results[0] if results else None
    val_loss = first.val_loss if first else None
    writes = story.plan.run.model.type == "gpt"
    return Summary(
        run_id=story.run_id,
        kind="train",
        strategy=story.plan.run.strategy,
        status=status,
        exit_code=exit_code,
        reason=reason,
        world_size=len(story.ranks),
        transport=story.plan.transport if len(story.ranks) > 1 else "none",
        steps=min((result.steps for result in results), default=0),
        tokens=sum(result.tokens for result in results),
        seconds=max((result.seconds for result in results), default=0.0),
        tokens_per_s=sum(_speed(rank.totals) for rank in story.counted),
        loss_first=first.loss_first if first else None,
        loss_last=first.loss_last if first else None,
        val_loss_first=first.val_loss_first if first else None,
        val_loss=val_loss,
        val_accuracy=first.val_accuracy if first else None,
        perplexity=perplexity(val_loss) if writes and val_loss is not None else None,
        tokenizer=story.plan.run.data.tokenizer if writes else None,
        counts="tokens" if writes else "samples",
        data_share=_data_share(story),
        params=story.plan.params,
        wire_bytes_per_step=sum(_bytes_per_step(story, rank.totals) for rank in story.counted),
        peak_rss_mb=tuple(rank.result.peak_rss_mb if rank.result else 0.0 for rank in story.ranks),
        restarts=story.restarts,
        generation=story.generation,
        resumed_from=first.resumed_from if first else "",
        resumed_step=first.resumed_step if first else None,
        gradients=first.gradients if first else None,
        **staleness_account([rank.steps for rank in story.ranks]),
        **_rounds(story),
        **idle_account(story.plan_at_last, [rank.steps for rank in story.ranks]),
    )


def aligned(ranks: Sequence[tuple[StepRecord, ...]]) -> list[tuple[StepRecord, ...]]:
    """The records of the steps that all of these ranks recorded, in order: each thins its own file."""
    numbers = [[record.step for record in steps] for steps in ranks]
    common = sorted(set(numbers[0]).intersection(*numbers[1:]))
    if all(found == common for found in numbers):
        return list(ranks)
    tables = [{record.step: record for record in steps} for steps in ranks]
    return [tuple(table[step] for step in common) for table in tables]


def sent_at(story: RunStory, record: StepRecord) -> int:
    """Bytes that one rank sent in a step; of a server what its workers sent to it besides: all of the run."""
    return record.bytes_out + (record.bytes_in if story.has_server else 0)


def tail_of(path: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log; none if there is no log."""
    if not path.exists():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return tuple(file.read().decode("utf-8", errors="replace").splitlines()[-lines:])


def _taking_part(folder: RunFolder, plan: Plan, reader: Reader) -> tuple[RankPlan, ...]:
    """The ranks of the last generation: an elastic run goes on without those it lost."""
    notes = [read_generation(folder, rank.node, rank.rank) for rank in plan.ranks]
    last = max((note for note in notes if note is not None), key=lambda note: note.generation, default=None)
    if last is None or not last.members:
        return plan.ranks
    for rank in plan.ranks:
        if rank.rank not in last.members:
            reader.notes.append(
                f"rank {rank.rank} on {rank.node} was lost, generation {last.generation} went on without it"
            )
    return tuple(rank for rank in plan.ranks if rank.rank in last.members)


def _rank_story(folder: RunFolder, rank: RankPlan, reader: Reader) -> RankStory:
    records = reader.metrics(folder.metrics(rank.node, rank.rank))
    return RankStory(rank, reader.result(folder.result(rank.node, rank.rank)), *records)


def culprit_of(folder: RunFolder, ranks: tuple[RankStory, ...]) -> Culprit | None:
    """A rank that failed of itself comes before one without a word, and that before those who only lost a peer."""
    bad = [rank for rank in ranks if rank.result is None or rank.result.status == "failed"]
    if not bad:
        return None
    first = min(bad, key=lambda rank: _blame(rank.result))
    result = first.result
    reason = result.reason if result else "it left no result: its machine was lost, or it was not collected"
    tail = tail_of(folder.log(first.plan.node, first.plan.rank))
    code, own = (result.exit_code, result.root_cause) if result else (PEER_FAILED, False)
    return Culprit(first.plan.rank, first.plan.node, reason, code, tail, own)


def _blame(result: RankResult | None) -> int:
    if result is None:
        return 1
    return 0 if result.root_cause else 2


def ending_of(culprit: Culprit | None, results: list[RankResult]) -> tuple[Status, int, str]:
    """How a run ended, its exit code, and why, from how its ranks did."""
    stopped = [result for result in results if result.status == "stopped"]
    if stopped and not any(result.status == "failed" for result in results):
        return "stopped", 130, stopped[0].reason
    if culprit is not None:
        code = culprit.exit_code if culprit.exit_code in KNOWN_CODES else PEER_FAILED
        return "failed", code, f"rank {culprit.rank} on {culprit.node}: {culprit.reason}"
    return "completed", 0, ""


def _speed(totals: Totals) -> float:
    """Tokens of a rank per second of training, without its evaluations."""
    return totals.tokens / totals.seconds if totals.seconds else 0.0


def _data_share(story: RunStory) -> float:
    """The part of all ranks' steps that they waited for samples."""
    seconds = sum(rank.totals.seconds for rank in story.ranks)
    waited = sum(rank.totals.data_s for rank in story.ranks)
    return waited / seconds if seconds else 0.0


def _bytes_per_step(story: RunStory, totals: Totals) -> float:
    """Bytes that a rank sent for each of its steps."""
    sent = totals.bytes_out + (totals.bytes_in if story.has_server else 0)
    return sent / totals.steps if totals.steps else 0.0


def _rounds(story: RunStory) -> dict[str, Any]:
    """What a summary says of rounds; nothing of a run that has none."""
    rounds = [[record for record in rank.steps if record.inner_steps is not None] for rank in story.ranks]
    slots = [record.slot_s for record in max(rounds, key=len, default=[]) if record.slot_s is not None]
    if not any(rounds):
        return {}
    return {
        "rounds": max(len(records) for records in rounds),
        "slot_s": median(slots) if slots else None,
        "own_steps": tuple(sum(record.own_steps for record in records) for records in rounds),
    }
