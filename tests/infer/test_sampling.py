"""The next token: the same choices as the plain method that sorts everything, and the right frequencies."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.infer.sampling import candidates, pick
from smolcluster.models.sampling import Sampling, probabilities

logit_rows = st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=1, max_size=600)
hows = st.builds(
    Sampling,
    temperature=st.sampled_from((0.3, 1.0, 2.5)),
    top_k=st.sampled_from((0, 1, 3, 40, 1000)),
    top_p=st.sampled_from((1e-9, 0.2, 0.5, 0.9, 0.999, 1.0)),
)


@given(logit_rows, hows)
@settings(max_examples=150, deadline=None)
def test_the_candidates_are_those_of_the_plain_method(row, how):
    logits = torch.tensor(row)
    ids, weights = candidates(logits, how)
    plain = probabilities(logits, how)
    ours = torch.zeros(len(row)).double().index_put((ids,), weights / weights.sum())
    # Sums in double and in float may differ on which side of top_p a token falls: then by that one token alone.
    differing = ((ours > 0) != (plain > 0)).nonzero().flatten()
    assert len(differing) <= 1
    if not len(differing):
        assert torch.allclose(ours.float(), plain, atol=1e-5)
    assert len(ids) >= 1
    assert int(logits.argmax()) in ids.tolist() or logits[ids[0]] == logits.max()
    if how.top_k:
        assert len(ids) <= how.top_k


@given(logit_rows, hows, st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_what_is_picked_is_a_candidate_and_follows_from_the_seed(row, how, seed):
    logits = torch.tensor(row)
    picked = [pick(logits, how, torch.Generator().manual_seed(seed)) for _ in range(2)]
    assert picked[0] == picked[1]
    assert picked[0] in candidates(logits, how)[0].tolist()


def test_frequencies_are_the_probabilities():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.0, -30.0])
    for how in (Sampling(1.0), Sampling(0.7, top_k=3), Sampling(1.3, top_p=0.8)):
        generator = torch.Generator().manual_seed(1)
        draws = 4000
        counts = torch.zeros(6)
        for _ in range(draws):
            counts[pick(logits, how, generator)] += 1
        chances = probabilities(logits, how)
        # Five standard deviations.
        assert ((counts / draws - chances).abs() <= 5 * (chances * (1 - chances) / draws).sqrt() + 1e-9).all()


def test_greedy_draws_nothing_and_takes_the_first_of_equals():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert pick(torch.tensor([0.0, 3.0, 3.0]), Sampling(temperature=0), generator) == 1
    assert torch.equal(generator.get_state(), before)
