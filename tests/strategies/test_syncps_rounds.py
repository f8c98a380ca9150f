"""Which gradients make up a step, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smolcluster.strategies.syncps.rounds import Arrived, Closed, Rounds, Task

TIMEOUT_S = 0.1


def opened(workers: int, interval: int = 1, max_staleness: int | None = None) -> tuple[Rounds, list[Task]]:
    """Rounds whose members have their first tasks; tasks by worker."""
    rounds = Rounds(TIMEOUT_S, interval, max_staleness=max_staleness)
    for worker in range(workers):
        rounds.join(worker)
    return rounds, rounds.assign()


def in_step(closed: Closed) -> list[tuple[int, int, bool]]:
    return [(each.task.worker, each.tokens, each.late) for each in closed.gradients]


def test_a_step_closes_at_once_when_all_have_delivered() -> None:
    rounds, tasks = opened(3)
    assert [(t.worker, t.step, t.pull, t.version) for t in tasks] == [(w, 1, True, 0) for w in range(3)]
    assert rounds.closes_in(0.0) is None
    for task, now in zip(tasks, (5.0, 5.01, 5.02), strict=True):
        rounds.push(task.worker, task.number, 10, now)
    assert rounds.closes_in(5.02) == 0.0
    closed = rounds.close()
    assert (closed.step, closed.tokens, closed.late, closed.staleness) == (1, 30, 0, 0)
    assert [(t.worker, t.step, t.version) for t in rounds.assign()] == [(0, 2, 1), (1, 2, 1), (2, 2, 1)]


def test_the_timeout_counts_from_the_first_gradient_and_not_from_the_opening() -> None:
    rounds, tasks = opened(2)
    assert rounds.closes_in(1000.0) is None  # a step never closes empty
    with pytest.raises(ValueError, match="step 1 has no gradient"):
        rounds.close()
    rounds.push(0, tasks[0].number, 1, 1000.0)
    assert rounds.closes_in(1000.0) == pytest.approx(TIMEOUT_S)
    assert rounds.closes_in(1000.04) == pytest.approx(0.06)
    assert rounds.closes_in(1000.2) == 0.0


def test_a_late_gradient_is_in_the_next_step_with_its_own_weight() -> None:
    rounds, tasks = opened(2)
    rounds.push(0, tasks[0].number, 8, 0.0)
    assert rounds.closes_in(0.1) == 0.0
    rounds.close()
    (again,) = rounds.assign()  # worker 1 has not delivered: one task at a time
    assert (again.worker, again.step) == (0, 2)
    late = rounds.push(1, tasks[1].number, 5, 0.15)
    assert isinstance(late, Arrived)
    assert late.late
    assert late.task.step == 1
    assert rounds.closes_in(0.15) is None  # it starts no timeout
    (jump,) = rounds.assign()
    assert (jump.worker, jump.step, jump.pull, jump.version) == (1, 2, True, 1)
    rounds.push(0, again.number, 8, 0.2)
    rounds.push(1, jump.number, 7, 0.25)
    closed = rounds.close()
    assert in_step(closed) == [(1, 5, True), (0, 8, False), (1, 7, False)]
    assert (closed.tokens, closed.late, closed.staleness) == (20, 1, 1)


def test_who_owes_an_earlier_step_is_not_waited_for() -> None:
    rounds, tasks = opened(2)
    rounds.push(0, tasks[0].number, 1, 0.0)
    rounds.close()
    (again,) = rounds.assign()
    rounds.push(0, again.number, 1, 1.0)
    assert rounds.closes_in(1.0) == 0.0


def test_weights_are_taken_every_interval_and_after_a_late_gradient() -> None:
    rounds, tasks = opened(1, interval=3)
    pulls, versions = [tasks[0].pull], [tasks[0].version]
    for _ in range(6):
        rounds.push(0, tasks[0].number, 1, 0.0)
        rounds.close()
        tasks = rounds.assign()
        pulls.append(tasks[0].pull)
        versions.append(tasks[0].version)
    assert pulls == [True, False, False, True, False, False, True]
    assert versions == [0, 0, 0, 3, 3, 3, 6]
    rounds.join(1)
    (other,) = rounds.assign()
    assert (other.step, other.pull, other.version) == (7, True, 6)
    rounds.push(0, tasks[0].number, 1, 1.0)
    assert rounds.closes_in(1.2) == 0.0
    rounds.close()
    rounds.assign()
    rounds.push(1, other.number, 1, 1.3)
    (jump,) = rounds.assign()
    assert (jump.worker, jump.step, jump.pull, jump.version) == (1, 8, True, 7)


def test_members_come_and_go_in_mid_step() -> None:
    rounds, tasks = opened(3)
    rounds.push(0, tasks[0].number, 1, 0.0)
    assert rounds.leave(1) == tasks[1]  # the task is owed by nobody now
    assert rounds.closes_in(0.0) == pytest.approx(TIMEOUT_S)
    rounds.join(3)
    (new,) = rounds.assign()
    assert (new.worker, new.step) == (3, 1)
    assert rounds.leave(0) is None  # it has delivered, and that stays
    rounds.push(2, tasks[2].number, 1, 0.01)
    assert rounds.closes_in(0.01) > 0  # the one that came is waited for
    rounds.push(3, new.number, 1, 0.02)
    assert rounds.closes_in(0.02) == 0.0
    assert in_step(rounds.close()) == [(0, 1, False), (2, 1, False), (3, 1, False)]
    assert rounds.members == (2, 3)


def test_a_step_whose_last_members_leave_closes_with_what_is_there() -> None:
    rounds, tasks = opened(2)
    rounds.push(0, tasks[0].number, 1, 0.0)
    rounds.leave(0)
    rounds.leave(1)
    assert rounds.closes_in(0.0) == 0.0


def test_late_gradients_alone_close_no_step() -> None:
    rounds, tasks = opened(2)
    rounds.push(0, tasks[0].number, 1, 0.0)
    rounds.close()
    rounds.leave(0)
    rounds.push(1, tasks[1].number, 1, 1.0)
    assert rounds.closes_in(99.0) is None
    assert rounds.account.pending == 1
    (jump,) = rounds.assign()  # and so somebody is always asked for the open step
    rounds.push(1, jump.number, 1, 2.0)
    assert in_step(rounds.close()) == [(1, 1, True), (1, 1, False)]


def test_at_the_end_of_a_run_late_gradients_close_a_step_of_their_own() -> None:
    rounds, tasks = opened(3)
    rounds.push(0, tasks[0].number, 1, 0.0)
    rounds.close()
    assert rounds.closes_in(0.5, more=False) is None
    rounds.push(1, tasks[1].number, 1, 0.5)
    assert rounds.closes_in(0.5, more=False) is None  # worker 2 owes one
    assert rounds.closes_in(0.5) is None
    rounds.leave(2)
    assert rounds.closes_in(0.5, more=False) == 0.0
    assert in_step(rounds.close()) == [(1, 1, True)]


def test_what_is_refused_and_why() -> None:
    rounds, tasks = opened(2)
    rounds.push(0, tasks[0].number, 1, 0.0)
    assert rounds.push(0, tasks[0].number, 1, 0.0) == "duplicate"
    assert rounds.push(0, tasks[1].number, 1, 0.0) == "expired"  # somebody else's
    rounds.leave(1)
    assert rounds.push(1, tasks[1].number, 1, 0.0) == "expired"  # nobody's
    rounds.join(1)
    (new,) = rounds.assign()
    assert rounds.push(1, tasks[1].number, 1, 0.0) == "expired"  # of the life before
    rounds.push(1, new.number, 1, 0.0)
    account = rounds.account
    assert (account.pushed, account.pending, account.applied) == (6, 2, 0)
    assert account.refused == {"duplicate": 1, "expired": 3}
    assert account.closes


def test_what_is_too_stale_is_refused_and_its_sender_goes_on_with_new_weights() -> None:
    rounds, tasks = opened(2, max_staleness=1)
    for _ in range(2):
        rounds.push(0, tasks[0].number, 1, 0.0)
        rounds.close()
        tasks = [*rounds.assign(), *tasks[1:]]
    assert rounds.push(1, tasks[1].number, 1, 0.0) == "too stale"
    (jump,) = rounds.assign()
    assert (jump.worker, jump.step, jump.pull, jump.version) == (1, 3, True, 2)
    assert rounds.account.refused == {"too stale": 1}
    assert rounds.account.pending == 0


def test_a_worker_that_has_not_left_cannot_join() -> None:
    rounds, _ = opened(1)
    with pytest.raises(ValueError, match="worker 0 has not left"):
        rounds.join(0)


class Life(RuleBasedStateMachine):
    """Members that come, deliver at any time, deliver twice, go; and a server that closes when it is time."""

    @initialize(interval=st.integers(1, 4), stale=st.sampled_from([None, 2]))
    def begin(self, interval: int, stale: int | None) -> None:
        self.rounds = Rounds(TIMEOUT_S, interval, max_staleness=stale)
        self.interval = interval
        self.now = 0.0
        self.owed: dict[int, Task] = {}
        self.given: list[Task] = []
        self.lost: set[int] = set()  # numbers that nobody will deliver
        self.inside: set[int] = set()
        self.applied: list[int] = []
        self.first: float | None = None
        self.calls = 0

    @rule(worker=st.integers(0, 4))
    def come_or_go(self, worker: int) -> None:
        if worker not in self.rounds.members:
            self.rounds.join(worker)
            return
        task = self.rounds.leave(worker)
        assert task == self.owed.pop(worker, None)
        if task is not None:
            self.lost.add(task.number)

    @rule()
    def assign(self) -> None:
        for task in self.rounds.assign():
            assert task.worker not in self.owed  # one at a time
            assert task.step == self.rounds.step
            assert not task.pull or task.version == task.step - 1
            self.owed[task.worker] = task
            self.given.append(task)

    @rule(worker=st.integers(0, 4), tokens=st.integers(1, 9), wait=st.floats(0, 0.2))
    def deliver(self, worker: int, tokens: int, wait: float) -> None:
        task = self.owed.pop(worker, None)
        if task is None:
            return
        self.now += wait
        self.calls += 1
        what = self.rounds.push(worker, task.number, tokens, self.now)
        if isinstance(what, str):
            assert what == "too stale"
            self.lost.add(task.number)
            return
        assert what.late == (task.step < self.rounds.step)
        self.inside.add(task.number)
        if not what.late and self.first is None:
            self.first = self.now

    @rule(pick=st.integers(0, 1000), worker=st.integers(0, 4))
    def deliver_what_was_not_asked_for(self, pick: int, worker: int) -> None:
        numbers = [task.number for task in self.given if self.owed.get(worker) != task]
        if not numbers:
            return
        self.calls += 1
        before = self.rounds.closes_in(self.now), self.rounds.account.pending, self.rounds.members
        assert self.rounds.push(worker, numbers[pick % len(numbers)], 1, self.now) in ("duplicate", "expired")
        assert before == (self.rounds.closes_in(self.now), self.rounds.account.pending, self.rounds.members)

    @rule(wait=st.floats(0, 0.3))
    def time_passes(self, wait: float) -> None:
        self.now += wait

    @precondition(lambda self: self.rounds.closes_in(self.now) == 0.0)
    @rule()
    def close(self) -> None:
        step = self.rounds.step
        closed = self.rounds.close()
        numbers = [each.task.number for each in closed.gradients]
        assert closed.step == step
        assert self.rounds.step == step + 1
        assert any(not each.late for each in closed.gradients)
        assert set(numbers) == self.inside
        assert len(numbers) == len(self.inside)
        self.applied += numbers
        self.inside, self.first = set(), None

    @invariant()
    def the_account_closes(self) -> None:
        account = self.rounds.account
        assert account.closes
        assert account.pushed == self.calls
        assert account.applied == len(self.applied) == len(set(self.applied))
        assert account.pending == len(self.inside)

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        places = [*self.applied, *self.inside, *self.lost, *(task.number for task in self.owed.values())]
        assert sorted(places) == [task.number for task in self.given]

    @invariant()
    def a_step_closes_when_all_of_it_are_there_or_time_is_up(self) -> None:
        left = self.rounds.closes_in(self.now)
        if self.first is None:
            assert left is None
            return
        waited_for = any(task.step == self.rounds.step for task in self.owed.values())
        assert left == (max(0.0, self.first + TIMEOUT_S - self.now) if waited_for else 0.0)

    @invariant()
    def weights_are_no_older_than_the_interval(self) -> None:
        tasks: dict[int, list[Task]] = {}
        for task in self.given:
            tasks.setdefault(task.worker, []).append(task)
        for each in tasks.values():
            assert all(any(t.pull for t in each[i : i + self.interval]) for i in range(len(each) - self.interval + 1))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
