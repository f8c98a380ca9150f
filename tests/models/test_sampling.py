import itertools
from collections import Counter

import pytest
import torch

from smolcluster.models import build_model
from smolcluster.models.cache import KVCache
from smolcluster.models.sampling import Sampling, choose, continuation, probabilities

GREEDY = Sampling(temperature=0)


@pytest.fixture
def model(gpt_spec):
    made = build_model(gpt_spec(), seed=1).eval()
    with torch.no_grad():  # first weights are so small that every prefix gives much the same
        for parameter in made.parameters():
            parameter.mul_(4)
    return made


@pytest.mark.parametrize("cuts", [[17], [1] * 17, [5, 1, 1, 7, 3]], ids=["at once", "one by one", "uneven"])
def test_the_cache_gives_the_logits_of_the_whole_prefix(model, cuts):
    ids = torch.randint(101, (2, 17), generator=torch.Generator().manual_seed(3))
    cache, parts = KVCache(3, 17), []
    for start, end in itertools.pairwise(itertools.accumulate(cuts, initial=0)):
        parts.append(model(ids[:, start:end], cache))
    assert cache.length == 17
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), atol=1e-5, rtol=1e-5)


def test_a_full_cache_refuses(model):
    with pytest.raises(ValueError, match="do not fit into a cache for 4"):
        model(torch.zeros(1, 5, dtype=torch.int64), KVCache(3, 4))


def test_greedy_is_the_likeliest_token_of_every_prefix(model):
    prompt = [5, 9, 2]
    made = list(continuation(model, prompt, 14, GREEDY, seed=0))
    ids = list(prompt)
    for _ in range(14):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert made == ids[3:]
    assert len(set(made)) > 1


def test_beyond_the_last_position_it_goes_on_from_the_last_half(model):
    made = list(continuation(model, [1, 2, 3], 40, GREEDY, seed=0))
    ids, window = [1, 2, 3], [1, 2, 3]
    for _ in range(40):
        window = ids[-8:] if len(window) > 17 else window
        token = int(model(torch.tensor([window]))[0, -1].argmax())
        ids.append(token)
        window = [*window, token]
    assert made == ids[3:]


def test_a_prompt_longer_than_the_model_is_cut_from_the_left(model):
    long = list(range(60))
    assert list(continuation(model, long, 3, GREEDY, 0)) == list(continuation(model, long[-17:], 3, GREEDY, 0))


def test_each_token_costs_one_column(model, monkeypatch):
    lengths = []
    forward = model.transformer.forward
    monkeypatch.setattr(
        model.transformer, "forward", lambda ids, cache: (lengths.append(ids.shape[1]), forward(ids, cache))[1]
    )
    list(continuation(model, [1, 2, 3], 10, GREEDY, 0))
    assert lengths == [3] + [1] * 9


def test_the_seed_decides_and_the_end_token_stops(model):
    how = Sampling(temperature=1.5)
    first = list(continuation(model, [1], 30, how, seed=4))
    assert list(continuation(model, [1], 30, how, seed=4)) == first
    assert list(continuation(model, [1], 30, how, seed=5)) != first
    end = first[10]
    assert list(continuation(model, [1], 30, how, seed=4, end=end)) == first[: first.index(end)]
    with pytest.raises(ValueError, match="empty prompt"):
        next(continuation(model, [], 3, how, 0))


def test_top_k_and_top_p_keep_what_they_should():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    close = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(probabilities(logits, Sampling()), logits.exp(), **close)
    torch.testing.assert_close(probabilities(logits, Sampling(top_k=2)), torch.tensor([0, 4 / 7, 0, 3 / 7]), **close)
    # 0.4 + 0.3 does not reach 0.75; with 0.2 it does.
    torch.testing.assert_close(
        probabilities(logits, Sampling(top_p=0.75)), torch.tensor([0, 4 / 9, 2 / 9, 3 / 9]), **close
    )
    torch.testing.assert_close(probabilities(logits, Sampling(top_p=0.01)), torch.tensor([0.0, 1, 0, 0]), **close)
    torch.testing.assert_close(
        probabilities(logits, Sampling(temperature=0.5)), torch.tensor([0.01, 0.16, 0.04, 0.09]) / 0.3, **close
    )
    torch.testing.assert_close(probabilities(logits, GREEDY), torch.tensor([0.0, 1, 0, 0]), **close)
    # After top-k 2 the two have 4/7 and 3/7: the first alone reaches 0.5.
    torch.testing.assert_close(
        probabilities(logits, Sampling(top_k=2, top_p=0.5)), torch.tensor([0.0, 1, 0, 0]), **close
    )


def test_ties_do_not_let_more_than_k_through():
    assert int((probabilities(torch.zeros(10), Sampling(top_k=3)) > 0).sum()) == 3


def test_draws_follow_the_probabilities():
    logits, generator = torch.tensor([0.1, 0.4, 0.2, 0.3]).log(), torch.Generator().manual_seed(0)
    drawn = Counter(choose(logits, Sampling(top_k=3), generator) for _ in range(3000))
    assert drawn[0] == 0
    assert drawn[1] / 3000 == pytest.approx(4 / 9, abs=0.03)
    assert drawn[2] / 3000 == pytest.approx(2 / 9, abs=0.03)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"temperature": -1}, "temperature"), ({"temperature": float("nan")}, "temperature"), ({"top_k": -1}, "top-k"),
     ({"top_p": 0}, "top-p"), ({"top_p": 1.5}, "top-p")],
)  # fmt: skip
def test_settings_outside_their_range_are_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        Sampling(**wrong)
