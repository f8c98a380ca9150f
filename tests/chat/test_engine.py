"""A real model in stages behind the API: the official client, the same text as the engine's, nothing left behind."""

import asyncio
import json
import threading
from contextlib import contextmanager

import httpx2
import openai
import pytest
from websockets.sync.client import connect

from smolcluster.infer.head import About
from smolcluster.infer.local import LocalHead
from smolcluster.infer.request import Done, Limits, Request, prompt_ids
from smolcluster.models.sampling import Sampling
from smolcluster.spec.modelfile import Decoding
from tests.chat.asking import events
from tests.chat.conftest import PATIENCE_S
from tests.infer.infer_models import CONTEXT, LAYERS, VOCABULARY, small_tokenizer
from tests.infer.test_engine import CUTS, wait_until_free

MODEL = "small"
GREEDY = Sampling(temperature=0.0)


def about(**changes) -> About:
    fields = {
        "name": MODEL, "source": "tests/small", "licence": "MIT", "layers": LAYERS, "params": 1000,
        "vocabulary": VOCABULARY, "context": CONTEXT, "max_tokens": 12, "precision": "fp32",
        "active_strategy": "greedy", "strategies": {"greedy": Decoding(), "top_k": Decoding(k=5)},
        "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
    }  # fmt: skip
    return About(**{**fields, **changes})


@contextmanager
def real(stages, models, **options):
    """A small Llama over three processes."""
    _, folder = models("llama")
    defaults = {"tokenizer": small_tokenizer(), "max_tokens": 12, "limits": Limits(sessions=6, queue=40)}
    with stages.serving(folder, CUTS, **{**defaults, **options}) as engine:
        yield engine


def text_of(engine, prompt, count=12, how=GREEDY, **more) -> str:
    """What the engine itself says."""
    return "".join(event.text for event in engine.submit(Request(prompt, count, how, **more)))


def test_the_official_client_reads_what_the_engine_writes(stages, models, serve):
    with real(stages, models) as engine:
        api = serve(LocalHead(engine, about()))
        client = api.openai()
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).owned_by == "smolcluster"
        wanted = text_of(engine, "the cat")
        messages = [{"role": "user", "content": "the cat"}]
        whole = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
        assert whole.choices[0].message.content == wanted
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage.completion_tokens == 12
        assert whole.usage.prompt_tokens == engine.count("the cat")
        options = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options=options)
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == wanted
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
        assert chunks[-1].usage == whole.usage
        done = client.completions.create(model=MODEL, prompt="the cat", max_tokens=5)
        assert done.choices[0].text == text_of(engine, "the cat", 5)
        assert done.usage.completion_tokens == 5
        several = client.completions.create(model=MODEL, prompt=["the cat", "the dog"], max_tokens=6, echo=True)
        assert [choice.text for choice in several.choices] == [
            prompt + text_of(engine, prompt, 6) for prompt in ("the cat", "the dog")
        ]
        ids = small_tokenizer().encode("the cat").ids
        assert client.completions.create(model=MODEL, prompt=ids, max_tokens=5).choices[0].text == done.choices[0].text
        pieces = [
            chunk.choices[0].text for chunk in client.completions.create(model=MODEL, prompt="the cat", stream=True)
        ]
        assert "".join(pieces) == wanted
        with client.chat.completions.stream(model=MODEL, messages=messages) as stream:
            assert "".join(event.delta for event in stream if event.type == "content.delta") == wanted
        wait_until_free(engine)


def test_sampling_seeds_stops_and_n(stages, models, serve):
    with real(stages, models) as engine:
        client = serve(LocalHead(engine, about())).openai()

        def ask(**options):
            answer = client.completions.create(model=MODEL, prompt="the", max_tokens=10, **options)
            return [choice.text for choice in answer.choices]

        how = Sampling(1.0, top_p=0.9)
        assert ask(seed=7, temperature=1, top_p=0.9) == [text_of(engine, "the", 10, how, seed=7)]
        assert ask(seed=7, n=3, temperature=1) == [
            text_of(engine, "the", 10, Sampling(1.0), seed=seed) for seed in (7, 8, 9)
        ]
        assert len(set(ask(n=4, temperature=2))) > 1
        assert ask(extra_body={"strategy": "top_k"}, seed=3) == [
            text_of(engine, "the", 10, Sampling(1.0, top_k=5), seed=3)
        ]
        whole = ask()[0]
        stop = whole[3:5]
        answer = client.completions.create(model=MODEL, prompt="the", max_tokens=10, stop=[stop])
        assert answer.choices[0].text == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"


def test_limits_of_a_real_model(stages, models, serve):
    with real(stages, models) as engine:
        client = serve(LocalHead(engine, about())).openai()
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model=MODEL, prompt="x" * 500)
        assert refused.value.code == "context_length_exceeded"
        assert f"{CONTEXT} tokens" in refused.value.message
        with pytest.raises(openai.BadRequestError, match="not in the vocabulary"):
            client.completions.create(model=MODEL, prompt=[VOCABULARY])
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.completions.create(model=MODEL, prompt="")
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="x")
        # More than the context has room for is cut.
        answer = client.completions.create(model=MODEL, prompt="the cat", max_tokens=10_000)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.total_tokens == CONTEXT + 1


def test_a_deadline_is_a_504_and_an_event(stages, models, serve):
    with real(stages, models) as engine:
        api = serve(LocalHead(engine, about()), request_s=1e-6)
        with pytest.raises(openai.InternalServerError) as late:
            api.openai().completions.create(model=MODEL, prompt="the cat")
        assert (late.value.status_code, late.value.code) == (504, "deadline")
        with pytest.raises(openai.APIError, match="was not done within"):
            list(api.openai().completions.create(model=MODEL, prompt="the cat", stream=True))
        wait_until_free(engine)


def test_special_tokens_come_from_the_template_alone(stages, models, serve):
    tokenizer = small_tokenizer()
    end = tokenizer.token_to_id("<|endoftext|>")
    template = "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}"
    with real(stages, models, tokenizer=tokenizer) as engine:
        api = serve(LocalHead(engine, about(chat_template=template)))
        seen = []
        submit = engine.submit

        def watched(request, tell=None):
            seen.append(request)
            return submit(request, tell)

        engine.submit = watched
        body = {"message": "a<|endoftext|>b", "max_tokens": 2}
        plain, forged = (
            api.client.post("/chat", json=asked).json()["usage"]["prompt_tokens"]
            for asked in ({**body, "message": "ab"}, body)
        )
        engine.submit = submit
        assert forged > plain + 5  # its letters
        for request in seen:
            assert prompt_ids(request, tokenizer, VOCABULARY, CONTEXT).count(end) == 1


def test_many_at_once_do_not_mix_sync_async_and_sockets(stages, models, serve):
    prompts = [
        f"the {word} {'sat ' * number}" for number, word in enumerate(["cat", "dog", "mat", "on", "saw", "and"] * 2)
    ]
    with real(stages, models) as engine:
        api = serve(LocalHead(engine, about()))
        wanted = {prompt: text_of(engine, prompt) for prompt in prompts}
        assert len(set(wanted.values())) > 3
        found: dict[tuple[str, str], str] = {}

        def by_socket(prompt: str) -> None:
            url = api.url.replace("http", "ws")
            with connect(f"{url}/ws/chat", open_timeout=PATIENCE_S) as talking:
                for _ in range(2):
                    talking.send(json.dumps({"message": prompt}))
                    while (event := json.loads(talking.recv(PATIENCE_S)))["type"] in ("begin", "token"):
                        pass
                    found["socket", prompt] = event["text"]

        async def by_client() -> None:
            options = {"base_url": f"{api.url}/v1", "api_key": "none", "max_retries": 0, "timeout": PATIENCE_S}
            async with openai.AsyncOpenAI(**options) as client:

                async def whole(prompt: str) -> None:
                    answer = await client.completions.create(model=MODEL, prompt=prompt)
                    found["whole", prompt] = answer.choices[0].text

                async def streamed(prompt: str) -> None:
                    messages = [{"role": "user", "content": prompt}]
                    stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
                    found["stream", prompt] = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

                await asyncio.gather(*(ask(prompt) for prompt in prompts for ask in (whole, streamed)))

        threads = [threading.Thread(target=by_socket, args=(prompt,)) for prompt in prompts[:4]]
        for thread in threads:
            thread.start()
        asyncio.run(by_client())
        for thread in threads:
            thread.join(PATIENCE_S)
        wait_until_free(engine)
    for (_, prompt), text in found.items():
        assert text == wanted[prompt]
    assert len(found) == 4 + 2 * len(prompts)


def test_an_answer_cut_at_each_event_has_the_same_tokens(stages, models, serve):
    with real(stages, models) as engine:
        api = serve(LocalHead(engine, about()), resume_s=PATIENCE_S)
        body = {"message": "the cat", "stream": True}
        whole = events(api.client.post("/chat", json=body))
        assert whole[-1]["text"] == text_of(engine, "the cat")
        assert whole[-1]["usage"]["completion_tokens"] == 12
        for cut in range(1, len(whole)):
            with api.client.stream("POST", "/chat", json=body) as answer:
                lines = (line for line in answer.iter_lines() if line.startswith("data: "))
                before = [json.loads(next(lines).removeprefix("data: ")) for _ in range(cut)]
            url = f"/answers/{before[0]['id']}/events"
            after = events(api.client.get(url, headers={"Last-Event-ID": str(before[-1]["number"])}))
            pieces = [event["text"] for event in [*before, *after] if event["type"] == "token"]
            assert pieces == [event["text"] for event in whole if event["type"] == "token"]
            assert (after[-1]["text"], after[-1]["usage"]) == (whole[-1]["text"], whole[-1]["usage"])
        wait_until_free(engine)


@pytest.mark.parametrize("way", ["whole", "stream", "socket"])
def test_a_client_that_leaves_frees_every_stage(stages, models, serve, way):
    with real(stages, models) as engine:
        api = serve(LocalHead(engine, about()))
        began, cancelled = threading.Event(), threading.Event()
        ends = []
        submit, cancel = engine.submit, engine.cancel

        def slow(request, tell):
            """The engine's thread stands still after the first token until there is a cancel in its inbox."""

            def held(event):
                tell(event)
                if not began.is_set():
                    began.set()
                    assert cancelled.wait(PATIENCE_S)
                if isinstance(event, Done):
                    ends.append(event.reason)

            return submit(request, held)

        def noticed(key):
            cancel(key)
            cancelled.set()

        engine.submit, engine.cancel = slow, noticed
        if way == "socket":
            with connect(f"{api.url.replace('http', 'ws')}/ws/chat", open_timeout=PATIENCE_S) as talking:
                talking.send('{"message": "the"}')
                assert began.wait(PATIENCE_S)
        elif way == "stream":
            with api.client.stream("POST", "/chat", json={"message": "the", "stream": True}) as answer:
                next(answer.iter_lines())
        else:
            with httpx2.Client(timeout=0.5) as hasty, pytest.raises(httpx2.ReadTimeout):
                hasty.post(f"{api.url}/chat", json={"message": "the"})
        assert cancelled.wait(PATIENCE_S)
        engine.submit, engine.cancel = submit, cancel
        wait_until_free(engine)
        assert engine.status().waiting == 0
        assert ends == ["cancelled"]
        assert (
            text_of(engine, "the cat") == api.openai().completions.create(model=MODEL, prompt="the cat").choices[0].text
        )


def test_a_lost_stage_is_told_and_reconnect_brings_it_back(stages, models, serve):
    with real(stages, models, comm={"timeout_s": 20.0}) as engine:
        api = serve(LocalHead(engine, about(), {0: "mini1", 1: "pi5", 2: "mini2"}))
        assert [stage["node"] for stage in api.client.get("/health").json()["stages"]] == ["mini1", "pi5", "mini2"]
        killed, submit = threading.Event(), engine.submit

        def slow(request, tell):
            """The engine's thread stands still after the first token until a stage is dead."""

            def held(event):
                tell(event)
                assert killed.wait(PATIENCE_S)

            return submit(request, held)

        engine.submit = slow
        with api.client.stream(
            "POST", "/v1/completions", json={"model": MODEL, "prompt": "the", "stream": True}
        ) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            assert json.loads(next(lines).removeprefix("data: "))["choices"]
            stages.kill(1)
            killed.set()
            *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stage_lost"
        engine.submit = submit
        pause = threading.Event()
        for _ in range(600):
            answer = api.client.get("/health")
            if answer.status_code == 503:
                break
            pause.wait(0.05)
        assert answer.json()["state"] == "lost"
        assert answer.json()["reason"]
        with pytest.raises(openai.InternalServerError) as lost:
            api.openai().completions.create(model=MODEL, prompt="the cat")
        assert lost.value.status_code == 503
        stages.begin(1, stages.config_of(1), stages.folder)
        assert api.client.post("/reconnect").status_code == 200
        body = api.client.get("/health").json()
        assert (body["state"], body["epoch"]) == ("ready", 2)
        assert all(stage["alive"] for stage in body["stages"])
        assert api.openai().completions.create(model=MODEL, prompt="the cat").choices[0].finish_reason == "length"
