"""Server and workers of syncps in one process and thread, on a clock of the test's own: every order is the test's."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch
from strategy_jobs import context_of
from strategy_models import model_of, samples_of

from smolcluster.comm.letter import Letter
from smolcluster.comm.mailbox import Member
from smolcluster.errors import ProtocolError
from smolcluster.runtime.context import RunContext
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.base import NotFiniteError, build_strategy
from smolcluster.strategies.syncps.letters import Op, Pull
from smolcluster.strategies.syncps.server import Server, ServerStep
from smolcluster.strategies.syncps.worker import Worker

LR = 1e-2
Picture = tuple[torch.Tensor, torch.Tensor]


def star_of(workers: int, batch: int = 6, **run: Any) -> list[RunContext]:
    """Contexts of a server and so many workers, who share a global batch of workers x batch samples."""
    contexts = [context_of("syncps", rank, workers + 1) for rank in range(workers + 1)]
    plan = contexts[0].plan
    ranks = tuple(
        rank.model_copy(update={"role": "worker" if rank.rank else "server", "samples": batch if rank.rank else 0})
        for rank in plan.ranks
    )
    given = {"worker_update_interval": 1, **run}
    training = plan.run.training.model_copy(update={"polyak_alpha": given.pop("alpha", 1.0)})
    spec = plan.run.model_copy(update={**given, "training": training})
    plan = plan.model_copy(update={"ranks": ranks, "run": spec, "global_batch": workers * batch})
    return [replace(context, plan=plan, me=ranks[context.rank]) for context in contexts]


def samples_at(ranges: tuple[tuple[int, int], ...], global_batch: int) -> Picture:
    """The samples at positions of the run's line, whose batches are strategy_models' steps."""
    rows: list[Picture] = []
    for start, stop in ranges:
        for at in range(start, stop):
            x, y = samples_of(at // global_batch, global_batch)
            rows.append((x[at % global_batch], y[at % global_batch]))
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


class Star:
    """A server, its workers, and letters between them that are taken when the test says so."""

    def __init__(self, contexts: list[RunContext], kind: str = "tiny") -> None:
        self.contexts = contexts
        self.kind = kind
        self.global_batch = contexts[0].plan.global_batch
        self.now = 0.0
        self.mail: dict[int, deque[Letter]] = {}
        self.workers: dict[int, Worker] = {}
        self.members: dict[int, Member] = {}
        self.positions: list[tuple[int, int]] = []
        self.server = Server(contexts[0], model_of(kind, seed=5), self.send)

    def send(self, member: Member, letter: Letter) -> None:
        self.mail[member.rank].append(letter)

    def join(self, rank: int) -> None:
        self.mail[rank] = deque()
        # Other weights: the server's must win.
        self.workers[rank] = Worker(self.contexts[rank], model_of(self.kind, seed=50 + rank))
        self.members[rank] = Member(rank, 7, len(self.members) + 1)
        self.server.joined(self.members[rank])

    def leave(self, rank: int) -> None:
        self.server.left(self.members.pop(rank))
        del self.workers[rank]

    def compute(self, rank: int) -> Letter:
        """What the worker answers to its one task."""
        letter = self.mail[rank].popleft()
        assert not self.mail[rank]
        work = self.workers[rank].take(letter)
        self.positions += work.ranges
        answer, _ = self.workers[rank].answer(work, [samples_at(work.ranges, self.global_batch)])
        return answer

    def deliver(self, rank: int, letter: Letter) -> None:
        self.server.delivered(self.members[rank], letter, self.now)

    def close(self) -> ServerStep:
        assert self.server.closes_in(self.now) == 0.0
        step = self.server.close(LR)
        self.server.assign()
        return step

    def round(self) -> ServerStep:
        """Everybody on time."""
        for rank in sorted(self.workers):
            self.deliver(rank, self.compute(rank))
        return self.close()

    @property
    def params(self) -> torch.Tensor:
        return self.server.replica.flat.params


def star(workers: int, **run: Any) -> Star:
    made = Star(star_of(workers, **run))
    for rank in range(1, workers + 1):
        made.join(rank)
    return made


def single_losses(batch: int, steps: int, kind: str = "tiny") -> tuple[list[float], torch.Tensor]:
    strategy: Any = build_strategy(context_of("single", 0, 1, samples=batch), model_of(kind, seed=5))
    losses = [strategy.train_step([samples_of(step, batch)], LR).loss for step in range(steps)]
    return losses, strategy.flat.params.clone()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["tiny", "gpt", "nn"])
def test_all_on_time_it_equals_one_process_on_the_union_of_the_batches(workers: int, kind: str) -> None:
    run = Star(star_of(workers), kind)
    for rank in range(1, workers + 1):
        run.join(rank)
    steps = [run.round() for _ in range(20)]
    losses, params = single_losses(6 * workers, 20, kind)
    assert [step.result.loss for step in steps] == pytest.approx(losses, abs=1e-5)
    if workers == 1:
        assert torch.equal(run.params, params)
    assert all(step.closed.late == 0 and step.closed.staleness == 0 for step in steps)
    assert all(step.result.tokens == 6 * workers * 8 or kind == "nn" for step in steps)
    assert run.positions[: workers * 20] == [(6 * i, 6 * i + 6) for i in range(workers * 20)]


def test_nobody_gets_a_task_before_all_of_the_plan_have_come_or_it_is_not_waited_for() -> None:
    run = Star(star_of(2))
    run.join(2)
    assert not run.mail[2]
    run.server.begin()
    run.server.assign()
    # Alone it computes the whole global batch.
    assert run.mail[2][0].numbers("ranges") == [0, 12]
    run.deliver(2, run.compute(2))
    run.join(1)
    assert run.mail[1][0].numbers("ranges") == [12, 18]
    run.deliver(1, run.compute(1))
    assert run.close().result.tokens == 18 * 8


def test_a_slow_worker_s_gradient_joins_the_next_step_with_its_own_weight() -> None:
    run = star(2)
    first, slow = run.compute(1), run.compute(2)
    run.deliver(1, first)
    run.now = 0.2
    one = run.close()
    before = run.params.clone()
    assert one.result.tokens == 6 * 8
    again = run.compute(1)
    run.deliver(2, slow)
    late = run.compute(2)
    assert (late.number, run.positions[-1]) == (3, (18, 24))  # nobody's samples were left out
    run.deliver(1, again)
    run.deliver(2, late)
    two = run.close()
    assert (two.closed.late, two.closed.staleness, two.result.tokens) == (1, 1, 18 * 8)
    # By hand: gradients at the weights that each was computed with, one AdamW step on their mean by tokens.
    strategy: Any = build_strategy(context_of("single", 0, 1, samples=6), model_of("tiny", seed=5))
    start = strategy.flat.params.clone()
    strategy.train_step([samples_at(((0, 6),), 12)], LR)
    assert torch.allclose(strategy.flat.params, before, atol=1e-6)
    strategy.flat.params.copy_(start)
    strategy.backward([samples_at(((6, 12),), 12)])
    box = strategy.whole_grads.clone()
    strategy.flat.params.copy_(before)
    local = strategy.backward([samples_at(((12, 18),), 12), samples_at(((18, 24),), 12)])
    strategy.whole_grads.add_(box)
    verdict = strategy.agree(replace(local, tokens=18 * 8), False, [strategy.whole_grads])
    strategy.adamw.step(0, LR, verdict.scale)
    assert torch.allclose(run.params, strategy.flat.params, atol=1e-5)


def test_samples_of_one_that_leaves_go_to_the_others_and_shares_follow() -> None:
    run = star(3)
    run.round()
    run.leave(2)  # it owes positions 24 to 30
    run.deliver(1, run.compute(1))
    run.deliver(3, run.compute(3))
    assert run.close().result.tokens == 12 * 8
    assert [letter.numbers("ranges") for letter in (run.mail[1][0], run.mail[3][0])] == [[24, 30, 36, 39], [39, 48]]
    step = run.round()
    assert step.result.tokens == 18 * 8
    run.join(2)  # in mid-step: its own share, though the others have more than theirs
    assert run.mail[2][0].numbers("ranges") == [66, 72]
    assert run.round().result.tokens == 24 * 8
    assert run.round().result.tokens == 18 * 8
    done = sorted(run.positions)
    assert [stop for _, stop in done[:-1]] == [start for start, _ in done[1:]]
    assert (done[0][0], done[-1][1]) == (0, run.server.leases.position - 18)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("quantised", [False, True])
def test_a_pull_is_a_polyak_average_every_interval(alpha: float, quantised: bool) -> None:
    run = star(1, worker_update_interval=2, alpha=alpha, use_quantization=quantised)
    worker = run.workers[1]
    expected, told = run.params.clone(), []
    for step in range(6):
        letter = run.mail[1][0]
        assert letter.say("pull", int) == (Pull.WHOLE if not step else Pull.NONE if step % 2 else Pull.NEWER)
        assert letter.say("version", int) == step // 2 * 2
        if step and step % 2 == 0:
            expected.lerp_(run.params, alpha)
        run.round()
        told.append((worker.flat.params - expected).abs().max().item())
    assert max(told) < (1e-3 if quantised else 1e-7)
    assert (max(told) > 0) == quantised


@pytest.mark.parametrize(("wire", "bytes_of_it"), [("int8", 0.27), ("bf16", 0.5), ("fp16", 0.5)])
def test_a_narrow_wire_learns_like_float32(wire: WireFormat, bytes_of_it: float) -> None:
    plain = star(2)
    narrow = [replace(each, plan=each.plan.model_copy(update={"wire": wire})) for each in star_of(2)]
    short = Star(narrow)
    for rank in (1, 2):
        short.join(rank)
    losses = [(plain.round().result.loss, short.round().result.loss) for _ in range(30)]
    assert losses[-1][0] < losses[0][0] - 0.4  # samples without a pattern: not much below log(61)
    assert losses[-1][1] == pytest.approx(losses[-1][0], rel=0.005)
    assert losses[-1][1] != losses[-1][0]
    assert short.mail[1][0].body.numel() <= bytes_of_it * plain.mail[1][0].body.numel()


def test_the_account_of_what_was_pushed() -> None:
    run = star(2)
    answer = run.compute(1)
    run.deliver(1, answer)
    run.deliver(1, answer)
    box = run.server.replica.whole_grads.clone()
    lost = run.compute(2)
    run.leave(2)
    run.join(2)
    run.deliver(2, lost)
    account = run.server.rounds.account
    assert torch.equal(run.server.replica.whole_grads, box)
    assert (account.pushed, account.pending, account.refused) == (3, 1, {"duplicate": 1, "expired": 1})
    assert account.closes


@pytest.mark.parametrize("words", [{"tokens": 0, "loss": 1.0}, {"tokens": 8}, {"tokens": 8, "loss": 1.0}])
def test_a_letter_that_is_no_gradient_of_this_model(words: dict[str, Any]) -> None:
    run = star(1)
    with pytest.raises(ProtocolError):
        run.deliver(1, Letter(Op.GRADIENT, 0, words, torch.zeros(12, dtype=torch.uint8)))


def test_a_loss_that_is_not_finite_names_its_rank() -> None:
    run = star(2)
    answer = run.compute(2)
    with pytest.raises(NotFiniteError, match="rank 2") as caught:
        run.deliver(2, replace(answer, words={**answer.words, "loss": float("nan")}))
    assert caught.value.rank == 2


@pytest.mark.parametrize("ranges", [[], [3], [4, 4], [5, 2], [-1, 3]])
def test_a_task_without_sense(ranges: list[int]) -> None:
    run = star(1)
    words = {"step": 1, "version": 0, "pull": 0, "ranges": ranges}
    with pytest.raises(ProtocolError):
        run.workers[1].take(Letter(Op.WORK, 9, words))


@pytest.mark.parametrize("pull", [Pull.WHOLE, Pull.NEWER])
@pytest.mark.parametrize("quantised", [False, True])
def test_weights_of_another_model(pull: Pull, quantised: bool) -> None:
    run = star(1, use_quantization=quantised)
    words = {"step": 1, "version": 0, "pull": int(pull), "ranges": [0, 1]}
    with pytest.raises(ProtocolError, match="model"):
        run.workers[1].take(Letter(Op.WORK, 9, words, torch.zeros(1000, dtype=torch.uint8)))
