"""A served run's ranks as processes, and the API's link to them: ends of every kind, and what is told of them."""

import pytest

from smolcluster.errors import ConfigError
from smolcluster.infer.rank import run_stage
from smolcluster.infer.request import Delta, Done, Failed, Request
from tests.asked import asked_already
from tests.infer.gates import wait_for
from tests.infer.infer_models import CONTEXT, LAYERS, VOCABULARY, generate, small_tokenizer
from tests.infer.served_run import TEMPLATE, Run, model_folder, plan_of, served
from tests.infer.test_engine import CUTS, GREEDY, collect, prompt_of
from tests.infer.test_keeper import assert_all_go_on, layers, until
from tests.infer.test_loss import stop_at_first_token

ALL = (0, 1, 2)


@pytest.fixture(scope="module")
def small(models, tmp_path_factory):
    """transformers' model, and its folder with a tokenizer."""
    model, folder = models("llama")
    return model, model_folder(folder, tmp_path_factory.mktemp("served") / "model")


def test_a_plan_is_served_until_it_is_told_to_stop(stages, small, tmp_path):
    model, folder = small
    with served(stages, folder, tmp_path, CUTS) as (run, client):
        health = wait_for(client, "ready")
        assert [(stage.rank, stage.node, stage.start, stage.stop, stage.alive) for stage in health.stages] == [
            (rank, f"n{rank}", start, stop, True) for rank, (start, stop) in enumerate(CUTS)
        ]
        about = client.about()
        assert (about.name, about.source, about.licence, about.layers) == ("small", "a test", "none", LAYERS)
        assert (about.vocabulary, about.context, about.max_tokens) == (VOCABULARY, CONTEXT, 16)
        assert about.chat_template == TEMPLATE
        assert about.special_tokens == {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
        tokens, text, end = collect(client.submit(Request("the cat", None, GREEDY, ignore_end=True)))
        prompt = small_tokenizer().encode("the cat").ids
        assert tokens == generate(model, prompt, 16)
        assert text == small_tokenizer().decode(tokens, skip_special_tokens=True)
        assert (end.reason, end.usage.completion_tokens) == ("length", 16)
        assert client.count("the cat") == len(prompt)
        client.reconnect(60.0)
        assert client.health().epoch == health.epoch + 1
        [(_, reader)] = stop_at_first_token(client, [Request(prompt_of(4), 40, GREEDY)], lambda: stages.ask_to_stop(1))
        *_, end = reader
        assert isinstance(end, Done) or (end.trouble, end.message) == ("closed", "the engine was closed")
        assert run.ended(0) == ""
        assert wait_for(client, "lost").reason.startswith("the head")
        for ending in run.stop(1, 2):  # each may have seen the head leave first
            assert ending in ("", "PeerLostError: the head has ended, and nothing is served without it")


@pytest.mark.parametrize("rank", [1, 2])
def test_a_killed_stage_is_replaced_and_no_token_is_told_twice(stages, small, tmp_path, rank):
    model, folder = small
    requests = [Request(prompt_of(9, number), 39, GREEDY, ignore_end=True) for number in range(3)]
    with served(stages, folder, tmp_path, CUTS) as (run, client):
        wait_for(client, "ready")
        running = stop_at_first_token(client, requests, lambda: run.kill(rank))
        until(client, lambda health: not health.stages[rank].alive)
        run.begin(rank)
        assert_all_go_on(model, running, requests)
        health = until(client, lambda health: health.state == "ready")
        assert layers(health) == list(CUTS)
        health = until(client, lambda health: not any(stage.sessions for stage in health.stages))
        assert all(stage.cache_bytes == 0 for stage in health.stages)
        run.stop(*ALL)


@pytest.mark.slow
def test_a_killed_head_ends_what_is_in_flight_and_all_find_its_next_process(stages, small, tmp_path):
    model, folder = small
    requests = [Request(prompt_of(9, number), 39, GREEDY, ignore_end=True) for number in range(3)]
    with served(stages, folder, tmp_path, CUTS) as (run, client):
        wait_for(client, "ready")
        for _ in range(2):
            running = stop_at_first_token(client, requests, lambda: run.kill(0))
            for request, (begun, reader) in zip(requests, running, strict=True):
                *more, end = reader
                told = [event.token for event in (*begun, *more) if isinstance(event, Delta)]
                assert told == generate(model, list(request.prompt), 39)[: len(told)]
                assert isinstance(end, Done) or (end.trouble, end.message[:17]) == ("stage_lost", "the head was lost")
                assert end.usage.completion_tokens == len(told)
            assert any(isinstance(event, Failed) for event in [end])
            lost = wait_for(client, "lost")
            assert not any(stage.alive for stage in lost.stages)
            for rank in (1, 2):
                assert "rank 0 was lost" in run.ended(rank)
            run.begin(1, 2)  # they find the announcement of the one that is gone
            run.begin(0)
            wait_for(client, "ready")
            tokens, _, end = collect(client.submit(requests[0]))
            assert isinstance(end, Done)
            assert tokens == generate(model, list(requests[0].prompt), 39)
        run.stop(*ALL)


def test_a_head_alone_serves_too(stages, small, tmp_path):
    model, folder = small
    with served(stages, folder, tmp_path, ((0, LAYERS),)) as (run, client):
        wait_for(client, "ready")
        assert collect(client.submit(Request(prompt_of(5), 9, GREEDY, ignore_end=True)))[0] == generate(
            model, prompt_of(5), 9
        )
        assert run.stop(0) == [""]


def test_what_is_missing_on_a_machine_is_said(stages, small, tmp_path):
    _, folder = small
    run = Run(stages, plan_of(CUTS), tmp_path, folder)
    me = run.plan.ranks[0]
    with pytest.raises(ConfigError, match="the run's secret cannot be read"):
        run_stage(run.config(0), run.plan, me, asked_already())
    with pytest.raises(ConfigError, match="names no model for n0"):
        run_stage(run.config(0, model_dir=None), run.plan, me, asked_already())
    (tmp_path / "secret").write_text("a secret")
    run_stage(run.config(1), run.plan, run.plan.ranks[1], asked_already())  # told to stop before the head was found
    with pytest.raises(ConfigError, match="is not a model folder"):
        run_stage(run.config(0, model_dir=str(tmp_path)), run.plan, me, asked_already())
