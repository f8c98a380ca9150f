import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Model

from smolcluster.data.tokenizer import train_bpe
from smolcluster.errors import ConfigError
from smolcluster.models import build_model
from smolcluster.models.hf import load_pretrained, save_pretrained

TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
TEXT = ["Once upon a time there was a cluster, små and 🦙-driven.\n\nIt trained; it served.  Twice!\n"] * 3
IDS = torch.randint(101, (2, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokenizer_file(tmp_path):
    file = tmp_path / "own" / "tokenizer.json"
    file.parent.mkdir()
    train_bpe(TEXT, 300).tokenizer.save(str(file))
    return file


@pytest.fixture
def saved(gpt_spec, tokenizer_file, tmp_path):
    folder = tmp_path / "run" / "model"
    model = build_model(gpt_spec(vocab_size=300), seed=1).eval()
    save_pretrained(model, tokenizer_file, folder)
    return model, folder


@TIED
def test_transformers_loads_what_is_saved(gpt_spec, tokenizer_file, tmp_path, tied):
    ours = build_model(gpt_spec(vocab_size=300, tie_embeddings=tied), seed=1).eval()
    save_pretrained(ours, tokenizer_file, tmp_path / "model")
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values())
    assert isinstance(theirs, GPT2LMHeadModel)
    torch.testing.assert_close(theirs.eval()(IDS).logits, ours(IDS), atol=1e-5, rtol=0)
    again = load_pretrained(tmp_path / "model")
    assert again.spec == ours.spec
    assert torch.equal(again(IDS), ours(IDS))
    assert ("lm_head.weight" in load_file(tmp_path / "model" / "model.safetensors")) is not tied


@TIED
@pytest.mark.parametrize("shard_size", ["1GB", "20KB"], ids=["one file", "sharded"])
def test_what_transformers_saves_is_loaded(gpt_spec, tmp_path, tied, shard_size):
    spec = gpt_spec()
    config = GPT2Config(
        vocab_size=101, n_positions=17, n_embd=24, n_layer=3, n_head=4, n_inner=40, tie_word_embeddings=tied
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    ours = load_pretrained(tmp_path)
    assert ours.spec == spec.model_copy(update={"tie_embeddings": tied, "dropout": 0.1})
    assert not ours.training
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)


def test_a_checkpoint_without_prefix_and_with_masks_is_loaded(tmp_path):
    """As old ones: GPT2Model's names, n_inner null, half precision, masks as buffers, a tied head twice."""
    bare = GPT2Model(GPT2Config(vocab_size=101, n_positions=17, n_embd=24, n_layer=2, n_head=4)).eval()
    tensors = {name: tensor.half() for name, tensor in bare.state_dict().items()}
    extra = {"h.0.attn.bias": torch.ones(1, 1, 17, 17), "lm_head.weight": tensors["wte.weight"].clone()}
    save_file(tensors | extra, tmp_path / "model.safetensors")
    bare.config.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    assert ours.spec.ff_dim == 96
    expected = bare.half().float()(IDS).last_hidden_state @ tensors["wte.weight"].float().T
    torch.testing.assert_close(ours(IDS), expected, atol=1e-5, rtol=0)


def test_the_tokenizer_is_the_same_in_transformers(saved):
    _, folder = saved
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "Once  upon a små\n\n 🦙 never seen: é\t<|endoftext|>the end"
    assert theirs(text).input_ids == ours.encode(text).ids
    assert theirs.decode(theirs(text).input_ids) == text
    assert (theirs.eos_token, theirs.eos_token_id, theirs.model_max_length) == ("<|endoftext|>", 0, 17)


def test_transformers_generates_from_it(saved):
    _, folder = saved
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert theirs.generation_config.eos_token_id == 0
    out = theirs.generate(IDS[:1, :4], max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert out.shape == (1, 9)


def test_views_of_one_flat_buffer_are_saved(gpt_spec, tokenizer_file, tmp_path):
    """As the strategies keep parameters: slices of one tensor, which safetensors must not take for shared ones."""
    model = build_model(gpt_spec(vocab_size=300), seed=1).eval()
    expected = model(IDS)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    start = 0
    for parameter in model.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    save_pretrained(model, tokenizer_file, tmp_path / "model")
    assert torch.equal(load_pretrained(tmp_path / "model")(IDS), expected)


def test_tensors_from_elsewhere_are_what_is_saved(gpt_spec, tokenizer_file, tmp_path):
    model, other = build_model(gpt_spec(vocab_size=300), seed=1), build_model(gpt_spec(vocab_size=300), seed=2)
    save_pretrained(model, tokenizer_file, tmp_path / "model", dict(other.named_parameters()))
    assert torch.equal(load_pretrained(tmp_path / "model")(IDS), other.eval()(IDS))


def test_saving_again_replaces_and_leaves_nothing_beside(saved, gpt_spec, tokenizer_file):
    _, folder = saved
    (folder / "left over").touch()
    newer = build_model(gpt_spec(vocab_size=300), seed=2).eval()
    save_pretrained(newer, tokenizer_file, folder)
    assert torch.equal(load_pretrained(folder)(IDS), newer(IDS))
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert [file.name for file in folder.parent.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_old_model(saved, gpt_spec, tmp_path):
    model, folder = saved
    with pytest.raises(FileNotFoundError):
        save_pretrained(build_model(gpt_spec(vocab_size=300), seed=2), tmp_path / "no tokenizer.json", folder)
    assert torch.equal(load_pretrained(folder)(IDS), model(IDS))
    assert [file.name for file in folder.parent.iterdir()] == ["model"]


def edit(folder, **changed):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: shutil.rmtree(f), "is not a model folder: it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: edit(f, model_type="bert"), "is a model of type 'bert'; only gpt2, llama, .* can be loaded"),
        (lambda f: edit(f, model_type="llama"), "does not describe a llama: 'num_attention_heads'"),
        (lambda f: edit(f, activation_function="relu"), "is a variant of GPT-2"),
        (lambda f: edit(f, layer_norm_epsilon=1e-6), "computed differently here: layer_norm_epsilon 1e-06"),
        (lambda f: edit(f, scale_attn_weights=False), "computed differently here: scale_attn_weights False"),
        (lambda f: edit(f, n_layer=-1), "does not describe a GPT-2"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 50), "cannot be read"),
        (lambda f: edit(f, vocab_size=301), r"transformer.wte.weight \(expected \(301, 24\), found \(300, 24\)\)"),
        (lambda f: edit(f, n_layer=4), "and 8 more"),
        (lambda f: edit(f, tie_word_embeddings=False), r"lm_head.weight \(expected \(300, 24\), found none\)"),
    ],
)
def test_a_folder_that_is_no_gpt2_says_what_is_wrong(saved, spoil, says):
    _, folder = saved
    spoil(folder)
    with pytest.raises(ConfigError, match=says):
        load_pretrained(folder)


@TIED
def test_in_and_out_again_is_bitwise(tokenizer_file, tmp_path, tied):
    """transformers' weights -> ours -> what we save -> transformers: no bit changes when nothing is trained."""
    config = GPT2Config(vocab_size=300, n_positions=17, n_embd=24, n_layer=2, n_head=4, tie_word_embeddings=tied)
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs"), tokenizer_file, tmp_path / "ours")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    assert again.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_pickle_is_refused_with_the_way_to_convert_it(saved):
    _, folder = saved
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"only as pytorch_model.bin, a pickle(?s:.)*save_pretrained"):
        load_pretrained(folder)
