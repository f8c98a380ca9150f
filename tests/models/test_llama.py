"""The Llama that is trained, beside transformers: loss, gradients, text, files; and the parameters that plans count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from smolcluster.models import build_model, build_stage
from smolcluster.models.cache import KVCache
from smolcluster.models.hf import load_pretrained, save_pretrained
from smolcluster.models.llama import Llama
from smolcluster.models.partition import cut
from smolcluster.models.sampling import Sampling, continuation
from smolcluster.plan.arithmetic import param_count, stage_params
from smolcluster.spec.pretrained import read_config
from tests.infer.infer_models import CONTEXT, KINDS, LAYERS, VOCABULARY, generate, save, small_tokenizer

LLAMAS = [kind for kind in KINDS if kind != "gpt2"]
IDS = torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
BOUNDS = ((0, 1), (1, 3), (3, LAYERS))


@pytest.mark.parametrize("kind", LLAMAS)
def test_loss_and_gradients_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs, folder = save(kind, tmp_path / "model")
    ours = load_pretrained(folder)
    assert isinstance(ours, Llama)
    x, y = IDS[:, :-1], IDS[:, 1:]
    expected = theirs(IDS, labels=IDS).loss
    loss = ours.loss(x, y)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    expected.backward()
    loss.backward()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert wanted.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", LLAMAS)
def test_what_is_saved_is_the_same_model_for_everybody(tmp_path: Path, kind: str) -> None:
    theirs, folder = save(kind, tmp_path / "model", max_shard_size="60KB")
    ours = load_pretrained(folder)
    tokenizer = tmp_path / "tokenizer.json"
    small_tokenizer().save(str(tokenizer))
    save_pretrained(ours, tokenizer, tmp_path / "ours")
    assert read_config(tmp_path / "ours") == read_config(folder) == ours.spec
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(again) is type(theirs)
    with torch.no_grad():
        assert torch.equal(again.eval()(IDS).logits, theirs(IDS).logits)


@pytest.mark.parametrize("kind", LLAMAS)
def test_it_writes_the_text_that_transformers_writes(tmp_path: Path, kind: str) -> None:
    theirs, folder = save(kind, tmp_path / "model")
    ours, prompt = load_pretrained(folder), IDS[0, :5].tolist()
    text = list(continuation(ours, prompt, CONTEXT - 10, Sampling(0.0, 0, 1.0), seed=0))
    assert text == generate(theirs, prompt, CONTEXT - 10)
    with torch.no_grad():  # several tokens on top of a past
        cache = KVCache(LAYERS, CONTEXT)
        ours.next_logits(IDS[:, :7], cache)
        torch.testing.assert_close(ours.next_logits(IDS[:, 7:], cache), theirs(IDS).logits[:, -1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", LLAMAS)
def test_plans_count_its_parameters_and_stages_hold_their_own(tmp_path: Path, kind: str) -> None:
    _, folder = save(kind, tmp_path / "model")
    spec = read_config(folder)
    model = build_model(spec, None, seed=3)
    assert param_count(spec) == sum(parameter.numel() for parameter in model.parameters())
    values = dict(model.named_parameters())
    for bounds, part in zip(BOUNDS, cut(BOUNDS, LAYERS), strict=True):
        stage = build_stage(spec, part, None, seed=3)
        held = dict(stage.named_parameters())
        assert stage_params(spec, bounds, LAYERS) == sum(parameter.numel() for parameter in held.values())
        assert held.keys() == {name for name in values if part.holds(name, spec.tie_embeddings)}
        assert all(torch.equal(values[name], parameter) for name, parameter in held.items())
