"""A stage goes in mid-stream: requests in flight end with an error, or go on when it comes again; nothing hangs."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from smolcluster.comm.endpoint import listen
from smolcluster.comm.opening import open_mesh
from smolcluster.errors import PeerError, PeerLostError
from smolcluster.infer.request import Delta, Done, Failed, Limits, Request
from tests.infer.infer_models import generate
from tests.infer.stage_pool import settings
from tests.infer.test_engine import CUTS, GREEDY, collect, prompt_of, wait_until_free


def stop_at_first_token(engine, requests, act):
    """Submit all; once the first of them writes, `act`. The streams, with what each has given so far."""
    streams = [engine.submit(request) for request in requests]
    readers = [iter(stream) for stream in streams]
    begun = [[next(reader)] for reader in readers]
    assert all(isinstance(events[0], Delta) for events in begun)
    act()
    return [(events, reader) for events, reader in zip(begun, readers, strict=True)]


def renew(stages, engine, rank):
    stages.begin(rank, stages.config_of(rank), stages.folder)
    engine.reconnect(90.0)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_killed_stage_ends_every_request_in_flight_and_the_next_epoch_serves(stages, models, rank):
    model, folder = models("llama")
    requests = [Request(prompt_of(4, number), 44, GREEDY) for number in range(4)]
    with stages.serving(folder, CUTS, limits=Limits(sessions=3)) as engine:
        # The fourth waits in line until one of the others ends: it has no first token to wait for.
        running = stop_at_first_token(engine, requests[:3], lambda: os.kill(stages.pid(rank), signal.SIGSTOP))
        waiting = engine.submit(requests[3])
        stages.kill(rank)
        for _, reader in running:
            *_, end = reader
            assert isinstance(end, Failed)
            assert end.trouble == "stage_lost"
            assert f"rank {rank}" in end.message
        *_, end = waiting
        assert isinstance(end, Failed)
        assert engine.status().state == "lost"
        with pytest.raises(PeerLostError, match="cannot be served now"):
            engine.submit(requests[0])
        renew(stages, engine, rank)
        assert engine.status().state == "ready"
        assert collect(engine.submit(requests[0]))[0] == generate(model, requests[0].prompt, 44)
        wait_until_free(engine)


def test_requests_go_on_where_they_were_when_the_stage_comes_again(stages, models):
    model, folder = models("llama")
    requests = [Request(prompt_of(9, number), 39, GREEDY) for number in range(3)]
    with stages.serving(folder, CUTS, on_loss="continue", limits=Limits(prefill_chunk=8)) as engine:
        running = stop_at_first_token(engine, requests, lambda: stages.kill(2))
        later = engine.submit(requests[0])
        renew(stages, engine, 2)
        for (events, reader), request in zip(running, requests, strict=True):
            *more, end = reader
            assert isinstance(end, Done)
            assert [event.token for event in (*events, *more)] == generate(model, request.prompt, 39)
        assert collect(later)[0] == generate(model, requests[0].prompt, 39)
        wait_until_free(engine)


def test_a_frozen_stage_is_lost_when_its_silence_is_too_long(stages, models):
    _, folder = models("llama")
    with stages.serving(folder, CUTS, comm={"timeout_s": 2.0}) as engine:
        [(_, reader)] = stop_at_first_token(
            engine, [Request(prompt_of(4), 44, GREEDY)], lambda: os.kill(stages.pid(1), signal.SIGSTOP)
        )
        try:
            *_, end = reader
            assert isinstance(end, Failed)
            assert end.trouble == "stage_lost"
        finally:
            stages.kill(1)


def test_a_request_that_waits_for_a_lost_stage_ends_at_its_deadline(stages, models):
    _, folder = models("llama")
    with stages.serving(folder, CUTS, on_loss="continue") as engine:
        request = Request(prompt_of(4), 44, GREEDY, deadline_s=1.5)
        [(_, reader)] = stop_at_first_token(engine, [request], lambda: stages.kill(2))
        *_, end = reader
        assert isinstance(end, (Failed, Done))  # it may have been done before the kill
        assert isinstance(end, Done) or end.trouble == "deadline"


def test_a_stage_that_does_not_come_is_named_and_the_engine_can_be_closed(stages, models):
    _, folder = models("llama")
    with stages.serving(folder, CUTS) as engine:
        stages.kill(2)
        with pytest.raises(PeerError, match="rank 2 did not connect"):
            engine.reconnect(1.0)
        assert engine.status().state == "lost"
    assert stages.endings == ["", None]


def test_a_stage_that_starts_again_waits_for_the_port_it_had(tmp_path):
    """Its earlier process may still be dying. At a first start a port in use is told at once."""
    [held] = listen(("127.0.0.1",), 0)
    port = held.getsockname()[1]
    with held:
        with pytest.raises(PeerError, match="is in use"):
            open_mesh(settings(1, 2, str(tmp_path), port=port))
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(open_mesh, settings(1, 2, str(tmp_path), port=port, bind_s=20.0))
            assert not wait([asked], 0.5).done
            held.close()
            listener = asked.result(30).listener
    assert listener.endpoint.port == port
    listener.close()
