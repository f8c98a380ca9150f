import pytest
import torch

from smolcluster.models.loss import chunk_rows, chunked_cross_entropy, plain_cross_entropy
from tests.live_bytes import LiveBytes


def inputs(rows, width, vocabulary, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 255, 511, 512, 513, 1300])
@pytest.mark.parametrize("elements", [1, 300 * 61, 1 << 21])
def test_value_and_gradients_are_the_plain_ones(rows, elements):
    hidden, weight, targets = inputs(rows, 7, 61, torch.float64)
    plain = plain_cross_entropy(hidden, weight, targets)
    expected = torch.autograd.grad(3.5 * plain, (hidden, weight))
    loss = chunked_cross_entropy(hidden, weight, targets, elements)
    got = torch.autograd.grad(3.5 * loss, (hidden, weight))
    torch.testing.assert_close(loss, plain, atol=1e-13, rtol=1e-13)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-14, rtol=1e-12)


def test_improbable_targets_stay_finite():
    """A softmax first and a logarithm after would give infinity here."""
    hidden, weight, targets = inputs(130, 7, 61)
    scaled = (hidden.detach() * 500).requires_grad_()
    loss = chunked_cross_entropy(scaled, weight, targets)
    torch.testing.assert_close(loss, plain_cross_entropy(scaled, weight, targets))
    loss.backward()
    assert torch.isfinite(scaled.grad).all()


@pytest.mark.parametrize("frozen", [0, 1])
def test_only_what_needs_a_gradient_gets_one(frozen):
    parts = list(inputs(40, 7, 61))
    parts[frozen] = parts[frozen].detach()
    chunked_cross_entropy(*parts).backward()
    assert parts[frozen].grad is None
    assert parts[1 - frozen].grad is not None
    with torch.no_grad():
        assert not chunked_cross_entropy(*parts).requires_grad


def test_a_second_differentiation_says_why_not():
    hidden, weight, targets = inputs(40, 7, 61)
    loss = chunked_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        loss.backward()


def test_shapes_that_do_not_fit_are_named():
    hidden, weight, targets = inputs(40, 7, 61)
    with pytest.raises(ValueError, match=r"expected \(N, D\), \(V, D\), \(N,\)"):
        chunked_cross_entropy(hidden, weight[:, :5], targets)


def test_chunks_are_even_and_not_too_thin():
    assert chunk_rows(1024, 2048) == 1024
    assert chunk_rows(1025, 2048) == 513
    assert chunk_rows(4096, 50257) == 512
    assert chunk_rows(5, 50257) == 5


def peak_bytes(function):
    parts = inputs(1024, 16, 8192)
    with LiveBytes() as live:
        function(*parts).backward()
    return live.peak


def test_memory_is_a_chunk_and_not_all_logits():
    logits = 1024 * 8192 * 4
    gradients = (1024 + 8192) * 16 * 4
    chunks = 512 * 8192 * 4
    plain = peak_bytes(plain_cross_entropy)
    chunked = peak_bytes(lambda *parts: chunked_cross_entropy(*parts, elements=512 * 8192))
    assert plain > 2 * logits, "the counter must see the plain one's copies"
    assert chunks < chunked < chunks + 2 * gradients + 100_000


def test_the_weights_gradient_is_formed_where_there_is_room_for_it() -> None:
    hidden, weight, targets = (torch.randn(700, 8), torch.randn(300, 8), torch.randint(300, (700,)))
    gradients = []
    for room in (None, torch.full((300, 8), torch.nan)):
        here = weight.clone().requires_grad_()
        # A view: autograd keeps what it is given as it is only if nobody else holds that very tensor.
        place = None if room is None else room.view_as(room)
        loss = chunked_cross_entropy(hidden, here, targets, room=place) * 3
        del place
        loss.backward()
        assert here.grad is not None
        assert room is None or here.grad.data_ptr() == room.data_ptr()
        gradients.append(here.grad)
    assert torch.equal(*gradients)


def test_an_evaluation_forms_no_gradient() -> None:
    hidden, weight, targets = (torch.randn(9, 8), torch.randn(300, 8).requires_grad_(), torch.randint(300, (9,)))
    room = torch.full((300, 8), 7.0)
    with torch.no_grad():
        loss = chunked_cross_entropy(hidden, weight, targets, room=room)
    assert not loss.requires_grad
    assert torch.equal(room, torch.full((300, 8), 7.0))
