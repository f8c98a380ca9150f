"""Sends that are watched: whoever takes too long is cut off, and nobody pays for it who does not."""

from __future__ import annotations

import threading

import pytest

from smolcluster.comm.clock import Deadline
from smolcluster.tablet.sending import SendWatch

LONG = 60.0


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "smol-sends"]


@pytest.fixture
def cut():
    return threading.Event()


@pytest.fixture
def watch(cut):
    before = watchers()
    made = SendWatch(cut.set)
    yield made
    made.close()
    for thread in watchers():
        if thread not in before:
            thread.join(LONG)
            assert not thread.is_alive()


def test_one_that_takes_too_long_is_cut(watch, cut):
    with watch.within(Deadline(0.05)):
        assert cut.wait(LONG)


def test_an_earlier_deadline_is_kept_beside_a_later_one(watch, cut):
    with watch.within(Deadline(LONG * 10)), watch.within(Deadline(0.05)):
        assert cut.wait(LONG)


def test_a_later_deadline_is_kept_after_an_earlier_send_has_ended(watch, cut):
    with watch.within(Deadline(0.05)):
        pass
    with watch.within(Deadline(0.2)):
        assert cut.wait(LONG)


def test_sends_that_end_in_time_share_one_thread_and_cut_nothing(watch, cut):
    before = len(watchers())
    for _ in range(1000):
        with watch.within(Deadline(LONG)):
            assert len(watchers()) == before + 1
    watch.close()
    assert not cut.is_set()
