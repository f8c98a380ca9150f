"""A stage on a tablet: the same numbers as here, sessions apart, and a word about everything that it does not do."""

import threading

import pytest
import torch

from smolcluster.comm.clock import Deadline
from smolcluster.errors import HandshakeError, PeerError, PeerLostError
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.door import Door, dial
from smolcluster.tablet.messages import Code, Failure, Forget, Open, Ping, Pong, Ready
from smolcluster.tablet.reference import FORMAT, ReferenceTablet, assignment
from smolcluster.tablet.remote import SessionGoneError
from tests.infer.infer_models import CONTEXT, LAYERS, VOCABULARY
from tests.tablet.tablets import CLUSTER, LONG, TABLET, dialler, inputs, listening, local, pair, remote


def test_an_app_that_listens_computes_the_same_bits(decoder, stage_of):
    pieces = inputs((7, 1, 1, 3))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        assert stage.open().device == "Python"
        for got, wanted in zip(remote(stage, 1, pieces), local(decoder, pieces), strict=True):
            assert (got == wanted).all()
        assert served.served == 1


def test_a_browser_that_dials_computes_the_same_bits(decoder, stage_of):
    pieces = inputs((7, 1, 1, 3))
    door = Door(["127.0.0.1"], 0, CLUSTER)
    ended = []

    def browser():
        with pytest.raises(PeerError) as end:
            ReferenceTablet(decoder, CONTEXT).serve(dial(door.endpoints[0], TABLET, Deadline(LONG)))
        ended.append(end.value)

    thread = threading.Thread(target=browser)
    thread.start()
    stage = stage_of(door.take, assignment(decoder, "llama", CONTEXT))
    try:
        for got, wanted in zip(remote(stage, 1, pieces), local(decoder, pieces), strict=True):
            assert (got == wanted).all()
    finally:
        stage.close()
        door.close()
        thread.join(LONG)
    assert isinstance(ended[0], PeerLostError)


def test_half_precision_travels_too(decoder, stage_of):
    pieces = inputs((7, 1))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT, "fp16"))
        found = torch.cat(remote(stage, 1, pieces))
    wanted = torch.cat(local(decoder, pieces))
    assert 0 < (found - wanted).abs().max() <= 0.002 * wanted.abs().max()


def test_the_last_layers_give_the_logits_after_the_last_token(models, stage_of):
    last = load_stage(models("gpt2")[1], LayerRange(2, 4, LAYERS))
    pieces = inputs((5, 1))
    with listening(ReferenceTablet(last, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(last, "gpt2", CONTEXT))
        found = remote(stage, 9, pieces)
    assert [tuple(one.shape) for one in found] == [(1, VOCABULARY)] * 2
    for got, wanted in zip(found, local(last, pieces), strict=True):
        assert (got == wanted).all()


def test_sessions_are_apart_and_forgotten_ones_are_unknown(decoder, stage_of):
    one, other = inputs((4, 1), seed=1), inputs((6, 1), seed=2)
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        first = [stage.forward(1, one[0], 0)]
        second = [stage.forward(2, other[0], 0)]
        first.append(stage.forward(1, one[1], 4))
        second.append(stage.forward(2, other[1], 6))
        assert (torch.cat(first) == torch.cat(local(decoder, one))).all()
        assert (torch.cat(second) == torch.cat(local(decoder, other))).all()
        stage.forget(1)
        stage.forget(1)
        with pytest.raises(SessionGoneError):
            stage.forward(1, one[1], 5)
        assert stage.forward(2, other[1], 7).shape == (1, 48)
        # From position 0 it begins anew.
        assert (stage.forward(1, one[0], 0) == first[0]).all()


def test_a_position_that_does_not_follow_ends_the_session_alone(decoder, stage_of):
    [piece, token] = inputs((4, 1))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        stage.forward(1, piece, 0)
        stage.forward(2, piece, 0)
        with pytest.raises(SessionGoneError, match="position 5 after 4 tokens"):
            stage.forward(1, token, 5)
        with pytest.raises(SessionGoneError):
            stage.forward(1, token, 4)
        stage.forward(2, token, 4)
        assert served.served == 1


def test_a_session_that_is_full_is_told(decoder, stage_of):
    [piece, token] = inputs((4, 1))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        stage.forward(1, piece, 0, capacity=4)
        with pytest.raises(SessionGoneError, match="room for 4"):
            stage.forward(1, token, 4)


def test_after_a_cut_the_session_is_unknown_and_prefilled_again(decoder, stage_of):
    pieces = inputs((5, 1, 1))
    wanted = local(decoder, pieces)
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        stage.forward(1, pieces[0], 0)
        stage.forward(1, pieces[1], 5)
        served.cut()
        # The cut is seen while it waits, or before: in both cases the caller is told, and no wrong numbers come.
        with pytest.raises((PeerLostError, SessionGoneError)):
            stage.forward(1, pieces[2], 6)
        with pytest.raises(SessionGoneError, match="prefill it again"):
            stage.forward(1, pieces[2], 6)
        again = stage.forward(1, torch.cat(pieces[:2]), 0)
        assert (again - torch.cat(wanted[:2])).abs().max() <= 1e-5
        assert (stage.forward(1, pieces[2], 6) - wanted[2]).abs().max() <= 1e-5
        assert served.served == 2


def test_the_wrong_layers_and_the_wrong_weights_are_refused(models, decoder, stage_of):
    other = load_stage(models("llama")[1], LayerRange(2, 4, LAYERS))
    changed = assignment(decoder, "llama", CONTEXT).model_copy(update={"packages": {FORMAT: "0" * 64}})
    for assign in (assignment(other, "llama", CONTEXT), changed):
        with listening(ReferenceTablet(decoder, CONTEXT)) as served:
            stage = stage_of(dialler(served.where), assign)
            with pytest.raises(HandshakeError, match="this tablet has layers 1:3 as torch"):
                stage.open()


def test_a_tablet_that_says_it_has_something_else_is_refused(decoder, stage_of):
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assignment(decoder, "llama", CONTEXT))

        def tablet():
            theirs.receive(Deadline(LONG))
            theirs.send(Ready(device="d", format="coreml", hash="1" * 64, layers="1:3"), Deadline(LONG))

        thread = threading.Thread(target=tablet)
        thread.start()
        with pytest.raises(HandshakeError, match="load the stage again"):
            stage.open()
        thread.join()
        answer = theirs.receive(Deadline(LONG))
        assert isinstance(answer, Failure)
        assert answer.code is Code.WRONG_STAGE


def test_a_full_tablet_and_a_session_too_long_are_told(decoder, stage_of, monkeypatch):
    monkeypatch.setattr("smolcluster.tablet.reference.MOST_SESSIONS", 1)
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        [piece] = inputs((2,))
        stage.forward(1, piece, 0)
        with pytest.raises(SessionGoneError, match="not open"):
            stage.forward(2, piece, 0)
        stage.forget(1)
        stage.forward(2, piece, 0)
        with pytest.raises(SessionGoneError, match="not open"):
            stage.forward(2, piece, 0, capacity=CONTEXT + 1)


def test_forget_of_what_is_not_known_is_no_error(decoder):
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        channel = dial(served.where, CLUSTER, Deadline(LONG))
        channel.send(assignment(decoder, "llama", CONTEXT), Deadline(LONG))
        channel.receive(Deadline(LONG))
        channel.send(Forget(99), Deadline(LONG))
        channel.send(Open(1, 4), Deadline(LONG))
        channel.send(Ping(3), Deadline(LONG))
        assert channel.receive(Deadline(LONG)) == Pong(3)
        channel.close()
