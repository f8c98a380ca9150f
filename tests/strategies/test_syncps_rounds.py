"""Which gradients make up a step, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smolcluster.strategies.syncps.rounds import Rounds

TIMEOUT_S = 0.1


def opened(members: int) -> Rounds[str]:
    """Rounds whose members 0, 1, ... have the tasks 0, 1, ... of step 1."""
    rounds = Rounds[str](TIMEOUT_S)
    for member in range(members):
        rounds.join(member)
        rounds.assign(member, member)
    return rounds


def close(rounds: Rounds[str]) -> list[tuple[str, bool]]:
    return [(one.gradient, one.late) for one in rounds.close()]


def test_a_step_closes_at_once_when_all_have_delivered() -> None:
    rounds = opened(3)
    assert rounds.closes_in(0.0) is None
    assert not any(rounds.put(member, member, f"g{member}", 5.0 + member / 100) for member in range(3))
    assert rounds.closes_in(5.02) == 0.0
    assert close(rounds) == [("g0", False), ("g1", False), ("g2", False)]
    assert (rounds.step, rounds.pending) == (2, 0)


def test_the_timeout_counts_from_the_first_gradient_and_not_from_the_opening() -> None:
    rounds = opened(2)
    assert rounds.closes_in(1000.0) is None  # a step never closes empty
    with pytest.raises(ValueError, match="step 1 has no gradient"):
        rounds.close()
    rounds.put(0, 0, "g", 1000.0)
    assert rounds.closes_in(1000.0) == pytest.approx(TIMEOUT_S)
    assert rounds.closes_in(1000.04) == pytest.approx(0.06)
    assert rounds.closes_in(1000.2) == 0.0


def test_a_late_gradient_is_in_the_next_step() -> None:
    rounds = opened(2)
    rounds.put(0, 0, "on time", 0.0)
    assert rounds.closes_in(0.1) == 0.0
    rounds.close()
    rounds.assign(0, 2)
    assert rounds.put(1, 1, "late", 0.15)
    assert rounds.closes_in(0.15) is None  # it starts no timeout
    assert not rounds.waits(1)  # and its sender may go on at once
    rounds.assign(1, 3)
    rounds.put(0, 2, "a", 0.2)
    assert rounds.closes_in(0.2) == pytest.approx(TIMEOUT_S)
    rounds.put(1, 3, "b", 0.25)
    assert rounds.closes_in(0.25) == 0.0
    assert close(rounds) == [("late", True), ("a", False), ("b", False)]


def test_who_owes_an_earlier_step_is_not_waited_for() -> None:
    rounds = opened(2)
    rounds.put(0, 0, "g", 0.0)
    rounds.close()
    rounds.assign(0, 2)
    rounds.put(0, 2, "g", 1.0)
    assert rounds.closes_in(1.0) == 0.0


def test_members_come_and_go_in_mid_step() -> None:
    rounds = opened(3)
    rounds.put(0, 0, "g0", 0.0)
    rounds.leave(1)
    assert rounds.closes_in(0.0) == pytest.approx(TIMEOUT_S)
    rounds.join(3)
    rounds.assign(3, 3)
    rounds.leave(0)  # what it has delivered stays
    rounds.put(2, 2, "g2", 0.01)
    assert rounds.closes_in(0.01) > 0  # the one that came is waited for
    rounds.put(3, 3, "g3", 0.02)
    assert rounds.closes_in(0.02) == 0.0
    assert close(rounds) == [("g0", False), ("g2", False), ("g3", False)]


def test_a_step_whose_last_members_leave_closes_with_what_is_there() -> None:
    rounds = opened(2)
    rounds.put(0, 0, "g", 0.0)
    rounds.leave(0)
    rounds.leave(1)
    rounds.leave(1)
    assert rounds.closes_in(0.0) == 0.0


def test_late_gradients_alone_close_no_step() -> None:
    rounds = opened(2)
    rounds.put(0, 0, "g", 0.0)
    rounds.close()
    rounds.leave(0)
    rounds.put(1, 1, "late", 1.0)
    assert rounds.closes_in(99.0) is None
    rounds.assign(1, 2)  # and so somebody is always asked for the open step
    rounds.put(1, 2, "g", 2.0)
    assert close(rounds) == [("late", True), ("g", False)]


def test_at_the_end_of_a_run_late_gradients_close_a_step_of_their_own() -> None:
    rounds = opened(3)
    rounds.put(0, 0, "g", 0.0)
    rounds.close()
    assert rounds.closes_in(0.5, more=False) is None
    rounds.put(1, 1, "late", 0.5)
    assert rounds.closes_in(0.5, more=False) is None  # member 2 owes one
    assert rounds.closes_in(0.5) is None
    rounds.leave(2)
    assert rounds.closes_in(0.5, more=False) == 0.0
    assert close(rounds) == [("late", True)]


def test_a_gradient_of_a_life_before_is_late_and_its_sender_keeps_the_task_it_has() -> None:
    rounds = opened(2)
    rounds.leave(1)
    rounds.join(2)
    rounds.assign(2, 2)
    assert rounds.put(2, 1, "of task 1", 0.0)
    assert not rounds.put(2, 2, "of task 2", 0.1)
    assert rounds.waits(2)


def test_a_gradient_that_is_in_no_step_leaves_its_sender_idle() -> None:
    rounds = opened(2)
    rounds.drop(1, 1)
    rounds.put(0, 0, "g", 0.0)
    assert rounds.closes_in(0.0) == 0.0  # nobody is expected any more
    rounds.assign(1, 2)
    assert rounds.closes_in(0.0) > 0


def test_who_waits_gets_no_task() -> None:
    rounds = opened(2)
    rounds.put(0, 0, "g", 0.0)
    with pytest.raises(ValueError, match="member 0 waits"):
        rounds.assign(0, 2)


class Life(RuleBasedStateMachine):
    """Members that come, deliver at any time, go; and a server that gives out tasks and closes when it is time."""

    @initialize()
    def begin(self) -> None:
        self.rounds = Rounds[int](TIMEOUT_S)
        self.now = 0.0
        self.here: set[int] = set()
        self.owed: dict[int, tuple[int, int]] = {}  # by member: task, step
        self.given = 0
        self.lost: set[int] = set()  # tasks that nobody will deliver
        self.inside: set[int] = set()
        self.applied: list[int] = []
        self.first: float | None = None

    @rule(member=st.integers(0, 4))
    def come_or_go(self, member: int) -> None:
        if member not in self.here:
            self.here.add(member)
            self.rounds.join(member)
            return
        self.here.discard(member)
        self.rounds.leave(member)
        if member in self.owed:
            self.lost.add(self.owed.pop(member)[0])

    @rule(member=st.integers(0, 4))
    def assign(self, member: int) -> None:
        if member not in self.here or member in self.owed or self.rounds.waits(member):
            return
        self.rounds.assign(member, self.given)
        self.owed[member] = (self.given, self.rounds.step)
        self.given += 1

    @rule(member=st.integers(0, 4), wait=st.floats(0, 0.2))
    def deliver(self, member: int, wait: float) -> None:
        if member not in self.owed:
            return
        task, step = self.owed.pop(member)
        self.now += wait
        late = self.rounds.put(member, task, task, self.now)
        assert late == (step < self.rounds.step)
        assert self.rounds.waits(member) == (not late)
        self.inside.add(task)
        if not late and self.first is None:
            self.first = self.now

    @rule(member=st.integers(0, 4), wait=st.floats(0, 0.2))
    def deliver_what_was_lost(self, member: int, wait: float) -> None:
        if not self.lost or member not in self.here:
            return
        self.now += wait
        task = self.lost.pop()
        waited = self.rounds.waits(member)
        assert self.rounds.put(member, task, task, self.now)
        assert self.rounds.waits(member) == waited
        self.inside.add(task)

    @rule(member=st.integers(0, 4))
    def refuse(self, member: int) -> None:
        if member in self.owed:
            task, _ = self.owed.pop(member)
            self.rounds.drop(member, task)
            self.lost.add(task)

    @rule(wait=st.floats(0, 0.3))
    def time_passes(self, wait: float) -> None:
        self.now += wait

    @precondition(lambda self: self.rounds.closes_in(self.now) == 0.0)
    @rule()
    def close(self) -> None:
        step = self.rounds.step
        closed = self.rounds.close()
        assert self.rounds.step == step + 1
        assert any(not one.late for one in closed)
        tasks = [one.gradient for one in closed]
        assert set(tasks) == self.inside
        assert len(tasks) == len(self.inside)
        self.applied += tasks
        self.inside, self.first = set(), None
        assert not any(self.rounds.waits(member) for member in self.here)

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        places = [*self.applied, *self.inside, *self.lost, *(task for task, _ in self.owed.values())]
        assert sorted(places) == list(range(self.given))
        assert self.rounds.pending == len(self.inside)

    @invariant()
    def a_step_closes_when_all_of_it_are_there_or_time_is_up(self) -> None:
        left = self.rounds.closes_in(self.now)
        if self.first is None:
            assert left is None
            return
        waited_for = any(step == self.rounds.step for _, step in self.owed.values())
        assert left == (max(0.0, self.first + TIMEOUT_S - self.now) if waited_for else 0.0)

    @invariant()
    def at_the_end_nothing_that_has_come_is_left_behind(self) -> None:
        if self.inside and not self.owed:
            assert self.rounds.closes_in(self.now, more=False) == 0.0


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
