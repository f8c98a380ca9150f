"""Hours of serving in minutes: thousands of requests, cancels and readers that leave, stages killed again and again.

make soak ARGS="tests/infer"           SOAK_REQUESTS=200 for a smaller one
"""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from smolcluster.infer.request import Delta, Done, Request
from tests.infer.gates import wait_for
from tests.infer.infer_models import VOCABULARY, generate
from tests.infer.served_run import model_folder, served
from tests.infer.test_engine import CUTS, GREEDY
from tests.infer.test_keeper import layers, until

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "2000"))
ROUND, STREAMS, TEXTS, LENGTH = 50, 8, 40, 25
# Python's and the C library's own bookkeeping, after thousands of sessions and dozens of layouts.
MORE_MB, MORE_FILES = 32.0, 8
WARM_ROUNDS = 2


def ask(client, texts, seed) -> str:
    """One request, and how it went. What is told is right, whatever happens to it."""
    chance = random.Random(seed)
    prompt, expected = chance.choice(texts)
    count = chance.randint(1, LENGTH)
    stream = client.submit(Request(prompt, count, GREEDY, ignore_end=True))
    fate = chance.random()
    leaves_at = chance.randint(0, count) if fate < 0.3 else -1
    told = []
    end = None
    for event in stream:
        if not isinstance(event, Delta):
            end = event
            break
        told.append(event.token)
        if len(told) == leaves_at:
            if fate < 0.15:
                break  # the reader leaves
            stream.cancel()
    assert told == expected[: len(told)]
    if end is None:
        return "left"
    assert isinstance(end, Done), end
    assert end.usage.completion_tokens == len(told)
    if end.reason == "length":
        assert len(told) == count
    return end.reason


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_thousand_requests_with_cancels_and_kills(stages, models, tmp_path):
    model, source = models("llama")
    folder = model_folder(source, tmp_path / "model")
    chance = random.Random(0)
    texts = []
    for _ in range(TEXTS):
        prompt = [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 20))]
        texts.append((prompt, generate(model, prompt, LENGTH)))
    # About as long as a process takes to start: some come back in time, for others layers are spread anew.
    with served(stages, folder, tmp_path, CUTS, rejoin_s=6.0) as (run, client), ThreadPoolExecutor(STREAMS) as pool:
        wait_for(client, "ready")
        fates: dict[str, int] = {}
        warm = files = None
        for number in range(max(REQUESTS // ROUND, WARM_ROUNDS + 1)):
            asked = [pool.submit(ask, client, texts, 1000 * number + one) for one in range(ROUND)]
            if number >= WARM_ROUNDS or number == 0:
                asked[chance.randint(4, 20)].result(120)
                rank = chance.choice((1, 2))
                run.kill(rank)
                if chance.random() < 0.5:  # it comes only after others have taken its layers, or not
                    until(client, lambda health: health.state != "ready")
                run.begin(rank)
            for one in asked:
                fate = one.result(300)
                fates[fate] = fates.get(fate, 0) + 1
            # Idle, it is whole again, and nobody holds anything.
            health = until(client, lambda health: health.state == "ready" and layers(health) == list(CUTS))
            health = until(client, lambda health: not any(stage.sessions for stage in health.stages))
            assert (health.active, health.waiting) == (0, 0)
            assert all(stage.alive and stage.cache_bytes == 0 for stage in health.stages)
            held = psutil.Process(stages.pid(1)).num_fds()
            if number == WARM_ROUNDS - 1:
                warm, files, threads = [stage.rss_mb for stage in health.stages], held, threading.active_count()
        now = [stage.rss_mb for stage in health.stages]
        print(f"\n{fates}, epoch {health.epoch}; MB {warm} -> {now}; files of the head {files} -> {held}")
        assert all(after < before + MORE_MB for before, after in zip(warm, now, strict=True)), (warm, now)
        assert held <= files + MORE_FILES
        assert threading.active_count() <= threads + 1
        assert sum(fates.values()) >= REQUESTS
        run.stop(0, 1, 2)
