"""A model over real processes writes what transformers writes in one; sessions do not mix; ends are clean."""

import pytest

from smolcluster.errors import BusyError, RequestError
from smolcluster.infer.request import Delta, Done, Failed, Limits, Request
from smolcluster.models.sampling import Sampling
from tests.infer.infer_models import CONTEXT, VOCABULARY, generate, small_tokenizer

GREEDY = Sampling(temperature=0.0)
CUTS = ((0, 1), (1, 3), (3, 4))


def prompt_of(length: int, salt: int = 0) -> list[int]:
    return [(7 * number * number + 13 * salt + 5) % VOCABULARY for number in range(length)]


def collect(stream) -> tuple[list[int], str, Done | Failed]:
    events = list(stream)
    assert all(isinstance(event, Delta) for event in events[:-1])
    text = "".join(event.text for event in events[:-1])
    return [event.token for event in events[:-1]], text + getattr(events[-1], "text", ""), events[-1]


def wait_until_free(engine) -> None:
    """Every stage has forgotten every session. Each look waits for the stages' answers: no spinning, no sleeping."""
    for _ in range(200):
        status = engine.status()
        pongs = engine.stages()
        if not status.active and not status.leaving and not any(pong.sessions for pong in pongs.values()):
            assert len(pongs) == 2
            return
    raise AssertionError(f"{status}, {pongs}")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_greedy_text_is_that_of_transformers_from_one_token_to_the_context_limit(stages, models, kind):
    model, folder = models(kind)
    with stages.serving(folder, CUTS, limits=Limits(prefill_chunk=7)) as engine:
        lengths = (1, 2, 6, 7, 8, 20, CONTEXT - 1)
        asked = {}
        for length in lengths:
            prompt = prompt_of(length)
            count = min(15, CONTEXT - length)
            asked[length] = (prompt, count, engine.submit(Request(prompt, count, GREEDY)))
        for prompt, count, stream in asked.values():
            tokens, _, end = collect(stream)
            assert tokens == generate(model, prompt, count)
            assert isinstance(end, Done)
            assert end.reason == "length"
            assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (len(prompt), count)
        # A full context still gives the token after it; asking for more is cut to what there is room for.
        tokens, _, end = collect(engine.submit(Request(prompt_of(CONTEXT), 5, GREEDY)))
        assert (len(tokens), end.reason) == (1, "length")
        tokens, _, _ = collect(engine.submit(Request(prompt_of(40), 100, GREEDY)))
        assert len(tokens) == CONTEXT - 40 + 1
        wait_until_free(engine)
    assert stages.endings == ["", ""]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_concurrent_sessions_do_not_mix(stages, models, precision):
    _, folder = models("llama")
    requests = [
        Request(prompt_of(1 + 5 * number, number), 12, Sampling(1.0, top_p=0.9) if number % 2 else GREEDY, seed=number)
        for number in range(8)
    ]
    with stages.serving(folder, CUTS, precision, limits=Limits(sessions=5, prefill_chunk=8)) as engine:
        alone = [collect(engine.submit(request))[0] for request in requests]
        streams = [engine.submit(request) for request in requests]
        together = [collect(stream)[0] for stream in streams]
        wait_until_free(engine)
    if precision == "bf16":  # sums of a batch are rounded otherwise than those of a row, and bf16 has ties
        pairs = [pair for one, other in zip(alone, together, strict=True) for pair in zip(one, other, strict=True)]
        assert len(pairs) == 8 * 12
    else:
        assert together == alone
    assert len({tuple(tokens) for tokens in alone}) == 8


def test_one_process_serves_alone_too(stages, models):
    model, folder = models("gpt2")
    with stages.serving(folder, ((0, 4),)) as engine:
        assert collect(engine.submit(Request(prompt_of(9), 10, GREEDY)))[0] == generate(model, prompt_of(9), 10)


def test_cancel_frees_the_caches_of_every_stage(stages, models):
    _, folder = models("llama")
    with stages.serving(folder, CUTS) as engine:
        streams = [engine.submit(Request(prompt_of(5, n), 40, GREEDY)) for n in range(4)]
        first = [next(iter_) for iter_ in [iter(stream) for stream in streams[:1]]]
        assert isinstance(first[0], Delta)  # and its reader has gone: that cancels it
        for stream in streams[1:]:
            stream.cancel()
            *_, end = stream
            assert isinstance(end, Done)
            assert end.reason in ("cancelled", "length")
        wait_until_free(engine)
        assert all(pong.cache_bytes == 0 for pong in engine.stages().values())


def test_a_deadline_ends_a_request_that_waits_and_one_that_is_active(stages, models):
    _, folder = models("llama")
    with stages.serving(folder, CUTS, limits=Limits(sessions=1)) as engine:
        *_, end = engine.submit(Request(prompt_of(5), 40, GREEDY, deadline_s=0.0))
        assert isinstance(end, Failed)
        assert end.trouble == "deadline"
        wait_until_free(engine)


def test_what_cannot_be_served_is_said_at_once(stages, models):
    _, folder = models("llama")
    with stages.serving(folder, CUTS, limits=Limits(tokens=30, sessions=1, queue=1)) as engine:
        for request, words in [
            (Request([], 5), "empty"),
            (Request([VOCABULARY], 5), "vocabulary"),
            (Request(prompt_of(CONTEXT + 1), 5), "context"),
            (Request("hello", 5), "no tokenizer"),
            (Request([1], 5, stop=("x",)), "no tokenizer"),
            (Request([1], 0), "max_tokens"),
            (Request(prompt_of(20), 20), "room"),
        ]:
            with pytest.raises(RequestError, match=words):
                engine.submit(request)
        held = [engine.submit(Request([number], 30, GREEDY)) for number in (1, 2)]

        def flood() -> None:  # the first ones may have ended meanwhile
            for number in range(50):
                held.append(engine.submit(Request([number], 30, GREEDY)))  # noqa: PERF401

        with pytest.raises(BusyError, match="try again"):
            flood()
        assert all(isinstance(collect(stream)[2], Done) for stream in held)


def test_stop_strings_and_text(stages, models):
    _, folder = models("gpt2")
    tokenizer = small_tokenizer()
    with stages.serving(folder, CUTS, tokenizer=tokenizer) as engine:
        request = Request("the cat", 25, Sampling(1.0), seed=3)
        tokens, text, end = collect(engine.submit(request))
        assert text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert end.reason == "length"
        again = collect(engine.submit(request))
        assert again[:2] == (tokens, text)
        stop = text[6:9]
        _, stopped, end = collect(engine.submit(Request("the cat", 25, Sampling(1.0), (stop,), seed=3)))
        assert stopped == text[: text.index(stop)]
        assert end.reason == "stop"
        ends = frozenset(tokens[4:5])
    with stages.serving(folder, CUTS, tokenizer=tokenizer, ends=ends) as engine:
        shorter, _, end = collect(engine.submit(request))
        assert (shorter, end.reason) == (tokens[: tokens.index(tokens[4])], "stop")
        longer = collect(engine.submit(Request("the cat", 25, Sampling(1.0), seed=3, ignore_end=True)))[0]
        assert longer == tokens
