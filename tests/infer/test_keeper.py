"""A stage goes, and the model goes on being served: by its next process, or by those who are left."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from smolcluster.errors import ConfigError, PeerError, PeerLostError, Problem
from smolcluster.infer.keeper import Policy
from smolcluster.infer.layout import Here, Layout, Place
from smolcluster.infer.replan import Replanner
from smolcluster.infer.request import Delta, Done, Event, Failed, Request
from smolcluster.models.sampling import Sampling
from smolcluster.plan.stages import Machine, weight_of
from smolcluster.spec.shape import read_shape
from tests.infer.infer_models import CONTEXT, generate
from tests.infer.served_run import plan_of
from tests.infer.stage_pool import loader
from tests.infer.test_engine import CUTS, GREEDY, collect, prompt_of, wait_until_free
from tests.infer.test_loss import stop_at_first_token

WAIT_S = 120.0


def replanner(folder, memory_mb=None) -> Replanner:
    weight = weight_of(read_shape(folder), "fp32", CONTEXT)
    return Replanner(weight, "fp32", {rank: Machine(f"n{rank}", memory_mb) for rank in range(len(CUTS))})


def policy(folder, rejoin_s, **changes) -> Policy:
    return Policy(**{"replan": replanner(folder), "rejoin_s": rejoin_s, "open_s": WAIT_S, **changes})


def too_few(there):
    raise ConfigError([Problem("", 0, "", "they are too small", "")])


def until(engine, good):
    """Health is asked until it is as wished; each look waits a moment, and their number is bounded."""
    pause = threading.Event()
    for _ in range(1200):
        health = engine.health()
        if good(health):
            return health
        pause.wait(0.1)
    raise AssertionError(health)


def layers(health):
    return [(stage.start, stage.stop) for stage in health.stages]


def renew(stages, rank):
    stages.begin(rank, stages.config_of(rank), stages.folder)


def assert_all_go_on(model, running, requests):
    """What was told before and after is the undisturbed text, each token once."""
    for (events, reader), request in zip(running, requests, strict=True):
        *more, end = reader
        assert isinstance(end, Done), end
        told = [event.token for event in (*events, *more)]
        assert told == generate(model, list(request.prompt), request.max_tokens)
        assert end.usage.completion_tokens == len(told)


REQUESTS = [Request(prompt_of(9, number), 39, GREEDY) for number in range(3)]


@pytest.mark.parametrize(("rank", "how"), [(1, "kill"), (2, "kill"), (1, "freeze"), (2, "freeze")])
def test_a_lost_stage_is_waited_for_and_nobody_has_to_ask(stages, models, rank, how):
    model, folder = models("llama")
    comm = {"timeout_s": 3.0} if how == "freeze" else None
    with stages.serving(folder, CUTS, comm=comm, on_loss="continue", policy=policy(folder, WAIT_S)) as engine:
        running = stop_at_first_token(engine, REQUESTS, lambda: getattr(stages, how)(rank))
        lost = until(engine, lambda health: health.state != "ready")
        assert lost.state == "lost"
        assert f"rank {rank}" in lost.reason
        assert [stage.alive for stage in lost.stages] == [one != rank for one in range(3)]
        stages.kill(rank)
        renew(stages, rank)
        assert_all_go_on(model, running, REQUESTS)
        health = until(engine, lambda health: health.state == "ready")
        assert layers(health) == list(CUTS)
        assert all(stage.alive for stage in health.stages)
        assert health.epoch > lost.epoch
        wait_until_free(engine)
    assert stages.endings == ["", ""]


def test_health_says_of_a_stage_that_it_does_not_answer_before_it_counts_as_lost(stages, models):
    _, folder = models("gpt2")
    policy_ = policy(folder, WAIT_S)
    with stages.serving(folder, CUTS, comm={"timeout_s": 600.0}, on_loss="continue", policy=policy_) as engine:
        stages.freeze(2)
        health = until(engine, lambda health: not health.stages[2].alive)
        assert (health.state, health.reason) == ("ready", "rank 2 has not answered for a moment")
        assert health.stages[1].alive
        stages.kill(2)


@pytest.mark.parametrize("rank", [1, 2])
def test_those_who_are_left_take_the_layers_and_give_them_back(stages, models, rank):
    model, folder = models("llama")
    with stages.serving(folder, CUTS, on_loss="continue", policy=policy(folder, 0.0)) as engine:
        running = stop_at_first_token(engine, REQUESTS, lambda: stages.kill(rank))
        assert_all_go_on(model, running, REQUESTS)
        health = engine.health()
        assert health.state == "ready"
        left = [stage for stage in health.stages if stage.rank != rank]
        assert (left[0].rank, left[0].start, left[0].stop) == (0, 0, left[1].start)
        assert left[1].stop == 4
        gone = health.stages[rank]
        assert (gone.alive, gone.start, gone.stop) == (False, 0, 0)
        held = engine.submit(Request(prompt_of(4), 40, GREEDY))
        renew(stages, rank)
        assert collect(held)[0] == generate(model, prompt_of(4), 40)
        until(engine, lambda health: health.state == "ready" and layers(health) == list(CUTS))
        assert collect(engine.submit(REQUESTS[0]))[0] == generate(model, prompt_of(9), 39)
        wait_until_free(engine)
    assert stages.endings == ["", ""]


def test_the_head_goes_on_alone_and_reconnect_takes_in_who_is_there(stages, models):
    model, folder = models("gpt2")
    with stages.serving(folder, CUTS, on_loss="continue", policy=policy(folder, 0.0)) as engine:
        running = stop_at_first_token(engine, REQUESTS, lambda: (stages.kill(1), stages.kill(2)))
        assert_all_go_on(model, running, REQUESTS)
        assert layers(engine.health()) == [(0, 4), (0, 0), (0, 0)]
        held = iter(engine.submit(Request(prompt_of(4), 40, GREEDY)))
        first = next(held)
        renew(stages, 2)
        until(engine, lambda health: health.stages[2].alive)
        engine.reconnect(WAIT_S)
        health = engine.health()
        assert (health.stages[1].alive, health.stages[2].stop) == (False, 4)
        assert [event.token for event in (first, *held) if not isinstance(event, Done)] == generate(
            model, prompt_of(4), 40
        )
        renew(stages, 1)
        until(engine, lambda health: layers(health) == list(CUTS) and health.state == "ready")
        wait_until_free(engine)


def test_where_the_model_does_not_fit_the_head_says_so_and_waits(stages, models):
    model, folder = models("llama")
    small = policy(folder, 0.0, replan=too_few)
    with stages.serving(folder, CUTS, on_loss="continue", policy=small) as engine:
        long, short = REQUESTS[0], Request(prompt_of(9, 1), 39, GREEDY, deadline_s=6.0)
        running = stop_at_first_token(engine, [long, short], lambda: stages.kill(2))
        until(engine, lambda health: "they are too small" in health.reason)
        until(engine, lambda health: not any(stage.sessions for stage in health.stages))  # none outlives its epoch
        with pytest.raises(PeerLostError, match="rank 2 is gone, and the others are too few"):
            engine.submit(long)
        with pytest.raises(PeerError, match="rank 2 did not connect within 1 s"):
            engine.reconnect(1.0)
        *_, end = running[1][1]
        assert isinstance(end, Failed)
        assert end.trouble == "deadline"
        renew(stages, 2)
        assert_all_go_on(model, running[:1], [long])
        until(engine, lambda health: health.state == "ready")
        wait_until_free(engine)


def test_deadlines_and_cancels_are_kept_while_stages_are_connected(stages, models):
    """The head's own new layers take as long to load as the test likes: in another thread than the head's."""
    model, folder = models("llama")
    loading, go = threading.Event(), threading.Event()
    load = loader(folder)

    def slow(part, precision):
        if part.stop != CUTS[0][1]:
            loading.set()
            assert go.wait(WAIT_S)
        return load(part, precision)

    with stages.serving(folder, CUTS, on_loss="continue", policy=policy(folder, 0.0), head_load=slow) as engine:
        short = Request(prompt_of(9, 1), 39, GREEDY, deadline_s=8.0)
        running = stop_at_first_token(engine, [REQUESTS[0], short, REQUESTS[2]], lambda: stages.kill(1))
        assert loading.wait(WAIT_S)
        assert engine.health().state == "lost"
        later = engine.submit(Request(prompt_of(4), 5, GREEDY))
        dropped = engine.submit(Request(prompt_of(4), 5, GREEDY))
        dropped.cancel()
        assert [type(event) for event in dropped] == [Done]
        *_, end = running[1][1]
        assert end.trouble == "deadline"
        assert not go.is_set()
        go.set()
        assert_all_go_on(model, [running[0], running[2]], [REQUESTS[0], REQUESTS[2]])
        assert collect(later)[0] == generate(model, prompt_of(4), 5)
        pongs = engine.stages()
        assert pongs.keys() == {2}


def test_a_request_that_is_there_at_loss_after_loss_ends(stages, models):
    """It may be what the losses come of; one that is there by chance has been through five."""
    model, folder = models("gpt2")
    whole = generate(model, prompt_of(4), 40)
    with stages.serving(folder, ((0, 4),), on_loss="continue", policy=policy(folder, 0.0)) as engine:
        told: list[int] = []
        ends: queue.SimpleQueue[Event] = queue.SimpleQueue()

        def tell(event: Event) -> None:
            """In the head's thread: whatever is told is followed by a loss before the next token."""
            if isinstance(event, Delta):
                told.append(event.token)
                engine._pipeline.lose(f"for the {len(told)}th time")
            else:
                ends.put(event)

        engine.submit(Request(prompt_of(4), 40, GREEDY), tell)
        event = ends.get(timeout=WAIT_S)
        assert (event.trouble, event.usage.completion_tokens) == ("stage_lost", len(told))
        assert told == whole[:6]
        until(engine, lambda health: health.state == "ready")
        assert collect(engine.submit(Request(prompt_of(4), 40, GREEDY)))[0] == whole


def test_a_seed_gives_the_same_text_through_losses(stages, models):
    """What was drawn is never drawn again, and nothing is drawn for what was lost."""
    _, folder = models("llama")
    drawn = Request(prompt_of(4), 40, Sampling(temperature=1.5), seed=11, ignore_end=True)
    with stages.serving(folder, ((0, 4),), on_loss="continue", policy=policy(folder, 0.0)) as engine:
        whole, _, end = collect(engine.submit(drawn))
        assert isinstance(end, Done)
        told = []
        for event in engine.submit(drawn):
            if isinstance(event, Done):
                break
            told.append(event.token)
            if len(told) in (1, 2, 9, 30):
                engine._pipeline.lose("for a test")
        assert engine.status().epoch >= 3
    assert told == whole
    assert len(set(told)) > 10, "it was sampled"


def test_connecting_anew_is_no_loss_however_often_it_is_asked_for(stages, models):
    model, folder = models("gpt2")
    with stages.serving(folder, ((0, 4),), on_loss="continue", policy=policy(folder, 0.0)) as engine:
        told = []
        for event in engine.submit(Request(prompt_of(4), 40, GREEDY)):
            if isinstance(event, Done):
                break
            assert not isinstance(event, Failed), event
            told.append(event.token)
            if len(told) % 2:
                engine.reconnect(WAIT_S)
        assert told == generate(model, prompt_of(4), 40)


def test_closing_breaks_off_what_is_being_connected(stages, models):
    _, folder = models("llama")
    with stages.serving(folder, CUTS, on_loss="continue", policy=policy(folder, WAIT_S)) as engine:
        [(_, reader)] = stop_at_first_token(engine, REQUESTS[:1], lambda: stages.kill(2))
        with ThreadPoolExecutor(1) as pool:
            until(engine, lambda health: health.state == "lost")
            asked = pool.submit(engine.reconnect, WAIT_S)
            engine.close()
            with pytest.raises(PeerError, match=r"closed|broken off"):
                asked.result(WAIT_S)
        *_, end = reader
        assert isinstance(end, Failed | Done)
        with pytest.raises(PeerLostError, match="closed"):
            engine.submit(REQUESTS[0])


def test_a_model_whose_head_cannot_be_loaded_ends_the_engine(stages, models):
    _, folder = models("llama")
    wrong = ConfigError([Problem("model", 0, "", "is broken", "")])

    def broken(part, precision):
        raise wrong

    with stages.serving(
        folder, CUTS, on_loss="continue", policy=policy(folder, 0.0), head_load=broken, begin=False
    ) as engine:
        engine.begin()
        until(engine, lambda health: health.state == "closed")
        assert engine.failure is wrong


def test_before_all_have_come_it_is_starting(stages, models):
    model, folder = models("llama")
    with stages.serving(folder, CUTS, on_loss="continue", policy=policy(folder, 0.0), begin=False) as engine:
        health = engine.health()
        assert (health.state, health.epoch) == ("starting", 0)
        with pytest.raises(PeerLostError, match="cannot be served yet"):
            engine.submit(REQUESTS[0])
        engine.begin()
        until(engine, lambda health: health.state == "ready")
        assert collect(engine.submit(REQUESTS[0]))[0] == generate(model, prompt_of(9), 39)


def test_layers_are_split_over_those_who_are_left_by_memory_and_speed(models):
    _, folder = models("llama")
    weight = weight_of(read_shape(folder), "fp32", CONTEXT)
    here = Here(port=1, memory_mb=10_000)
    plan = Replanner(weight, "fp32", {0: Machine("a"), 1: Machine("b", speed=2.0), 2: Machine("c")})
    assert plan({1: here}) == Layout(
        layers=4, precision="fp32", places=(Place(rank=0, start=0, stop=1), Place(rank=1, start=1, stop=4))
    )
    assert [place.rank for place in plan({2: here}).places] == [0, 2]
    assert [(place.start, place.stop) for place in plan({}).places] == [(0, 4)]
    with pytest.raises(ConfigError, match="no split that fits"):
        plan({1: Here(port=1, memory_mb=100)})
    together = Replanner(weight, "fp32", {0: Machine("a"), 1: Machine("b"), 2: Machine("b")})
    half = Here(port=1, memory_mb=700)
    assert len(together({1: half}).places) == 2
    with pytest.raises(ConfigError, match="no split that fits"):
        together({1: half, 2: half})


def test_ranks_that_share_no_network_do_not_become_neighbours(models):
    _, folder = models("llama")
    weight = weight_of(read_shape(folder), "fp32", CONTEXT)
    here = Here(port=1, memory_mb=10_000)
    machines = {rank: Machine(f"n{rank}") for rank in range(4)}
    plan = Replanner(weight, "fp32", machines, frozenset({(1, 3)}))
    assert [place.rank for place in plan({1: here, 2: here, 3: here}).places] == [0, 1, 2, 3]
    assert [place.rank for place in plan({1: here, 3: here}).places] == [0, 1]
    assert [place.rank for place in plan({2: here, 3: here}).places] == [0, 2, 3]
    assert [place.rank for place in plan({3: here}).places] == [0, 3]
    ranks = plan_of(((0, 1), (1, 2), (2, 3), (3, 4))).ranks
    lonely = ranks[3].model_copy(update={"peers": {0: "a", 2: "b"}})
    made = plan_of(((0, 1), (1, 2), (2, 3), (3, 4)), ranks=(*ranks[:3], lonely, ranks[4]))
    assert Replanner.of(made, weight).strangers == {(1, 3)}
