import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from smolcluster.models import GPT, build_model
from smolcluster.plan.arithmetic import param_count
from smolcluster.spec.run import NNSpec

TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def hugging_face(spec) -> GPT2LMHeadModel:
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=spec.vocab_size, n_positions=spec.max_seq_len, n_embd=spec.model_dim, n_layer=spec.num_layers,
        n_head=spec.num_heads, n_inner=spec.ff_dim, tie_word_embeddings=spec.tie_embeddings,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # biases and norms start at 0 and 1: make every parameter count
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tokens(spec, batch=3):
    drawn = torch.randint(spec.vocab_size, (batch, spec.max_seq_len), generator=torch.Generator().manual_seed(1))
    return drawn, drawn.roll(-1, 1)


@TIED
def test_weights_of_hugging_face_give_its_logits_loss_and_gradients(gpt_spec, tied):
    spec = gpt_spec(tie_embeddings=tied)
    theirs, ours = hugging_face(spec), build_model(spec)
    parameters = dict(theirs.named_parameters())
    missing, unexpected = ours.load_state_dict(parameters, strict=False)
    assert not missing
    assert not unexpected

    x, y = tokens(spec)
    expected = theirs(x).logits
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=0)

    wanted = torch.nn.functional.cross_entropy(expected.flatten(0, 1), y.flatten())
    loss = ours.loss(x, y)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    wanted.backward()
    loss.backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, parameters[name].grad, atol=1e-6, rtol=1e-4, msg=name)


@TIED
def test_our_weights_load_into_hugging_face(gpt_spec, tied):
    spec = gpt_spec(tie_embeddings=tied)
    ours, theirs = build_model(spec, seed=3), hugging_face(spec)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert missing == (["lm_head.weight"] if tied else [])
    assert not unexpected
    x, _ = tokens(spec)
    torch.testing.assert_close(ours.eval()(x), theirs(x).logits, atol=1e-5, rtol=0)


@TIED
def test_parameters_are_what_the_plan_says(gpt_spec, tied):
    spec = gpt_spec(tie_embeddings=tied)
    assert sum(p.numel() for p in build_model(spec).parameters()) == param_count(spec)
    nn = NNSpec(input_dim=784, hidden=128, out=10)
    assert sum(p.numel() for p in build_model(nn).parameters()) == param_count(nn) == 101_770


def test_a_token_does_not_see_what_comes_after_it(gpt_spec):
    spec = gpt_spec()
    model = build_model(spec, seed=1).eval()
    x, _ = tokens(spec)
    changed = x.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % spec.vocab_size
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert (before[:, 9:] - after[:, 9:]).abs().max() > 1e-3


def test_the_same_seed_gives_the_same_weights_whatever_else_drew_numbers(gpt_spec):
    first = build_model(gpt_spec(), seed=7).state_dict()
    torch.manual_seed(99)
    torch.rand(1000)
    again, other = build_model(gpt_spec(), seed=7).state_dict(), build_model(gpt_spec(), seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["transformer.h.0.attn.c_attn.weight"], other["transformer.h.0.attn.c_attn.weight"])


def test_a_layers_first_weights_do_not_depend_on_the_other_layers(gpt_spec):
    """Residual projections apart, whose size depends on the depth."""
    shallow, deep = build_model(gpt_spec(num_layers=1), seed=2), build_model(gpt_spec(num_layers=3), seed=2)
    weights, more = shallow.state_dict(), deep.state_dict()
    assert all(torch.equal(weights[name], more[name]) for name in weights if "c_proj" not in name)


def test_first_weights_are_spread_as_gpt2s(gpt_spec):
    model = build_model(gpt_spec(model_dim=128, ff_dim=512, num_layers=8, vocab_size=500), seed=4)
    weights = model.state_dict()
    assert weights["transformer.wte.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert weights["transformer.h.5.mlp.c_fc.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert weights["transformer.h.5.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / 4, rel=0.02)
    assert (weights["transformer.h.5.ln_1.weight"] == 1).all()
    assert (weights["transformer.h.5.mlp.c_proj.bias"] == 0).all()


def test_dropout_acts_in_training_only_and_follows_the_seed(gpt_spec):
    model = build_model(gpt_spec(dropout=0.3), seed=1)
    x, y = tokens(model.spec)
    torch.manual_seed(1)
    first = model.loss(x, y).item()
    torch.manual_seed(1)
    assert model.loss(x, y).item() == first
    assert model.loss(x, y).item() != first
    model.eval()
    assert model.loss(x, y).item() == model.loss(x, y).item()


def test_the_vocabulary_of_the_data_wins(gpt_spec):
    assert build_model(gpt_spec(), vocab_size=64)(torch.zeros(1, 2, dtype=torch.int64)).shape == (1, 2, 64)


def test_too_many_tokens_and_uneven_heads_are_refused(gpt_spec):
    model = build_model(gpt_spec())
    with pytest.raises(ValueError, match="18 tokens, but the model has positions for 17"):
        model(torch.zeros(1, 18, dtype=torch.int64))
    with pytest.raises(ValueError, match="model_dim 24 is not a multiple of num_heads 5"):
        GPT(gpt_spec(num_heads=5))


def test_simple_nn_learns(gpt_spec):
    model = build_model(NNSpec(input_dim=16, hidden=8, out=3), seed=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, 4, generator=generator)
    y = x.flatten(1)[:, :3].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = model.loss(x, y).item()
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    assert model(x).shape == (64, 3)
    assert model.loss(x, y).item() < first / 4
