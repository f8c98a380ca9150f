"""Questions leave by the clock, whatever the answers do; and a process that knows that its maker is gone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from smolcluster.jobs.asking import Asking, NoAnswerError, pause_s

from .node import until


class Node:
    """Answers `slow_s` after it was asked, with the number of the question."""

    def __init__(self, slow_s: float) -> None:
        self.slow_s = slow_s
        self.asked: list[float] = []
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def ask(self) -> int:
        with self._lock:
            self.asked.append(time.monotonic())
            number = len(self.asked)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        threading.Event().wait(self.slow_s)
        with self._lock:
            self.at_once -= 1
        return number


def ask_for(asking: Asking[int], seconds: float) -> list[int]:
    """Every answer within that time."""
    end, answers = time.monotonic() + seconds, []
    while (left := end - time.monotonic()) > 0:
        if isinstance(answer := asking.wait(left), int):
            answers.append(answer)
    return answers


def gaps(node: Node) -> list[float]:
    return [later - earlier for earlier, later in zip(node.asked, node.asked[1:], strict=False)]


def test_a_slow_answer_does_not_keep_the_next_question() -> None:
    node = Node(slow_s=1.0)
    answers = ask_for(Asking(node.ask, every_s=0.1, latest_s=0.4, under_way=3), 2.6)
    assert len(node.asked) >= 5
    assert max(gaps(node)) < 0.9, "one after the other they would leave a second apart"
    assert node.most_at_once in (2, 3)
    assert answers == sorted(answers)


def test_the_time_of_an_answer_is_part_of_the_pause() -> None:
    node = Node(slow_s=0.3)
    ask_for(Asking(node.ask, every_s=0.4, latest_s=5.0, under_way=1), 2.2)
    # 0.4 s apart; pausing after each answer would make it 0.7.
    assert len(node.asked) >= 5
    # A busy machine may begin one late, but it catches up with none.
    assert node.asked[-1] - node.asked[0] >= 0.4 * (len(node.asked) - 1) - 0.2


def test_no_more_are_under_way_than_allowed() -> None:
    node = Node(slow_s=30.0)
    assert ask_for(Asking(node.ask, every_s=0.01, latest_s=0.02, under_way=2), 0.5) == []
    assert len(node.asked) == 2


def test_an_answer_older_than_one_that_was_given_is_left_out() -> None:
    turn = threading.Event()
    numbers = iter((1, 2))

    def ask() -> int:
        number = next(numbers, 3)
        if number == 1:
            turn.wait(10)
        elif number > 2:
            threading.Event().wait(30)
        return number

    asking = Asking(ask, every_s=0.05, latest_s=0.05, under_way=3)
    assert asking.wait(5) == 2
    turn.set()
    assert asking.wait(0.5) is None


def test_why_there_is_no_answer_is_told() -> None:
    def ask() -> int:
        raise NoAnswerError("off")

    answer = Asking(ask, every_s=1, latest_s=1, under_way=1).wait(5)
    assert isinstance(answer, NoAnswerError)
    assert str(answer) == "off"


def test_who_gives_a_node_longer_has_it_asked_less_often() -> None:
    assert pause_s(12, 15) == 3.0, "what nobody has changed"
    assert [pause_s(40, 60), pause_s(60, 40)] == [10.0, 10.0], "neither may run out"
    assert [pause_s(300, 300), pause_s(4, 300)] == [15.0, 3.0]


MAKER = """
import multiprocessing, os, sys, threading
from pathlib import Path
from smolcluster.jobs.identity import orphaned

def child(folder, maker):
    # Looks for the first time when its maker is gone already.
    pause = threading.Event()
    Path(folder, "here").touch()
    while os.getppid() == maker:
        pause.wait(0.01)
    Path(folder, "told").write_text(str(orphaned()))

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    context.Process(target=child, args=(sys.argv[1], os.getpid()), daemon=False).start()
    while not Path(sys.argv[1], "here").exists():
        threading.Event().wait(0.01)
    os._exit(0)
"""


def test_a_process_that_never_saw_its_maker_knows_that_it_is_gone(tmp_path: Path) -> None:
    script = tmp_path / "maker.py"
    script.write_text(MAKER)
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=30)
    until(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text() != "", "the child looked")
    assert (tmp_path / "told").read_text() == "True"


def test_a_question_that_fails_unforeseen_is_no_answer_and_the_next_one_leaves() -> None:
    numbers = iter(range(10))

    def ask() -> int:
        if (number := next(numbers)) < 3:
            raise RuntimeError(f"question {number}")
        return number

    asking = Asking(ask, every_s=0.01, latest_s=0.05, under_way=1)
    got = [asking.wait(20) for _ in range(4)]
    assert [str(answer) for answer in got] == [*(f"RuntimeError: question {number}" for number in range(3)), "3"]
    assert all(isinstance(answer, NoAnswerError) for answer in got[:3])
