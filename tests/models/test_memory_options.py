"""Options that change memory or speed and no number: recomputed blocks, short products, compiling."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from smolcluster.errors import ConfigError
from smolcluster.models import build_model
from smolcluster.models.compiled import require_compiler
from smolcluster.models.short import product

CPU = torch.device("cpu")
LENGTH = 16
IDS = torch.randint(101, (4, LENGTH + 1), generator=torch.Generator().manual_seed(1))


def step(model, precision=None):
    """Loss, gradients, and the tensors that autograd kept from forward to backward."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    torch.manual_seed(3)
    with (
        saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None, cache_enabled=False),
    ):
        loss = model.loss(IDS[:, :-1], IDS[:, 1:])
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = [tensor for address, tensor in kept.items() if address not in weights]
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], kept


def kept_bytes(kept):
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_recomputed_blocks_with_dropout_are_equal_to_the_bit_and_keep_their_inputs_only(gpt_spec, precision):
    spec = gpt_spec(dropout=0.3)
    plain, again = (build_model(spec, seed=1) for _ in range(2))
    again.checkpoint_blocks()
    loss, grads, kept = step(plain, precision)
    loss_again, grads_again, kept_again = step(again, precision)
    assert torch.equal(loss, loss_again)
    for one, other in zip(grads, grads_again, strict=True):
        assert torch.equal(one, other)
    # What a block keeps is not in there any more. Its input is, but checkpoint holds that by itself.
    inputs = spec.num_layers * 4 * LENGTH * spec.model_dim * 4
    assert kept_bytes(kept_again) + inputs < kept_bytes(kept) / 4


def test_nothing_is_recomputed_without_a_backward(gpt_spec):
    model = build_model(gpt_spec(), seed=1).eval()
    with torch.no_grad():
        expected = model(IDS)
    model.checkpoint_blocks()
    calls = []
    model.transformer.h[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(model(IDS), expected)
    assert len(calls) == 1


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_short_product_is_autocast_s_and_keeps_no_copy_of_the_weight(gpt_spec, precision):
    generator = torch.Generator().manual_seed(2)
    x, weight, bias, out = (torch.randn(s, generator=generator) for s in ((3, 5, 8), (8, 12), (12,), (3, 5, 12)))
    results = []
    for how in (product, lambda x, weight, bias: functional.linear(x, weight.t(), bias)):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        kept = []
        hooks = saved_tensors_hooks(lambda tensor, kept=kept: (kept.append(tensor), tensor)[1], lambda tensor: tensor)
        with hooks, torch.autocast("cpu", precision):
            y = how(*inputs)
        (y.float() * out).sum().backward()
        assert {tensor.grad.dtype for tensor in inputs} == {torch.float32}
        shapes = {tuple(sorted(tensor.shape)) for tensor in kept if tensor.dtype == precision}
        results.append((y.detach(), *(tensor.grad for tensor in inputs), (8, 12) in shapes))
    ours, theirs = results
    assert ours[0].dtype == precision
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(ours[3], theirs[3], atol=2e-2, rtol=1e-2)  # the bias's: ours is summed in float32
    assert not ours[4]
    assert theirs[4], "this test would see a copy"


def test_frozen_weights_get_no_gradient(gpt_spec):
    model = build_model(gpt_spec(), seed=1)
    frozen = model.transformer.h[0].attn.c_attn
    frozen.requires_grad_(False)
    step(model, torch.bfloat16)
    assert frozen.weight.grad is None
    assert frozen.bias.grad is None
    assert model.transformer.h[0].attn.c_proj.weight.grad is not None


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch, tmp_path):
    from torch._inductor import config, cpp_builder

    torch._dynamo.reset()
    cpp_builder.cpp_compiler_search.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    # config.patch and not monkeypatch, whose way back leaves torch without that setting.
    settings = {"force_disable_caches": True, "cpp.cxx": (None, "g++")}
    with config.patch(settings), pytest.raises(ConfigError) as error:
        require_compiler(CPU, "pi5")
    for part in ("training.compile", "pi5's cpu", "apt install g++", "training.compile false"):
        assert part in str(error.value)
    torch._dynamo.reset()
    cpp_builder.cpp_compiler_search.cache_clear()
