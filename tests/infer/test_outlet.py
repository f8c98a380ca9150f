"""A stage that takes nothing does not hold up the head: its sends come back at once, and all arrives in order."""

import threading
from contextlib import ExitStack

import pytest
import torch

from smolcluster.comm.clock import Deadline
from smolcluster.comm.opening import open_mesh
from smolcluster.errors import PeerError
from smolcluster.infer.messages import MOST_BYTES, Cancel, Span, Step, decode
from smolcluster.infer.outlet import Outlet
from tests.infer.stage_pool import settings

WAIT_S = 60.0


@pytest.fixture
def ends(tmp_path):
    """The head's end of a link, and a stage's, with two seconds of patience."""
    head = open_mesh(settings(0, 2, str(tmp_path), timeout_s=2.0))
    stage = open_mesh(settings(1, 2, str(tmp_path), listen=(), timeout_s=WAIT_S))
    with ExitStack() as stack:
        stack.callback(head.listener.close)
        theirs = stage.link(0, "hop", head.listener.endpoint, Deadline(WAIT_S))
        mine = head.link(1, "hop", deadline=Deadline(WAIT_S))
        stack.callback(stage.drop, theirs)
        stack.callback(head.drop, mine)
        yield mine, theirs


def step(number: int, rows: int) -> Step:
    return Step(1, number, (Span(1, 0, rows, True),), torch.full((rows, 1024), float(number)))


def test_what_the_kernel_does_not_take_is_sent_later_and_in_order(ends):
    mine, theirs = ends
    lost: list = []
    outlet = Outlet(mine, lost.append)
    sent = []
    for number in range(40):  # 80 MB: no kernel takes that
        sent += [step(number, 512), Cancel(1, number)]
        for message in sent[-2:]:
            outlet.send(message)
    assert outlet._rests
    for wanted in sent:
        got = decode(theirs.receive(WAIT_S, MOST_BYTES), "the head")
        if isinstance(wanted, Cancel):
            assert got == wanted
        else:
            assert (got.step, got.spans) == (wanted.step, wanted.spans)
            assert torch.equal(got.hidden, wanted.hidden)
    outlet.send(Cancel(1, 99))  # and again without a detour
    assert decode(theirs.receive(WAIT_S, MOST_BYTES), "the head") == Cancel(1, 99)
    outlet.close()
    assert lost == []


def test_one_who_takes_nothing_for_too_long_is_lost(ends):
    mine, _ = ends
    told = threading.Event()
    lost: list[PeerError] = []
    outlet = Outlet(mine, lambda error: (lost.append(error), told.set()))
    for number in range(40):
        outlet.send(step(number, 512))
    assert told.wait(WAIT_S)
    assert "took nothing for 2 s" in str(lost[0])
    outlet.close()


def test_closing_does_not_wait_for_it(ends):
    mine, _ = ends
    lost: list = []
    outlet = Outlet(mine, lost.append)
    for number in range(40):
        outlet.send(step(number, 512))
    outlet.close()
    assert lost == []
