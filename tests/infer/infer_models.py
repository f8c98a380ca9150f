"""Small models with random weights in Hugging Face folders, made with transformers: the oracle of these tests."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from smolcluster.data.tokenizer import train_bpe

CONTEXT, VOCABULARY, LAYERS = 48, 300, 4
KINDS = ("gpt2", "llama", "qwen2", "qwen3", "llama3")


def make(kind: str, layers: int = LAYERS):
    import transformers

    common = {
        "vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": layers, "num_attention_heads": 6,
        "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": CONTEXT,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=48, n_layer=layers, n_head=4, n_positions=CONTEXT, bos_token_id=None,
            eos_token_id=None,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    if kind == "qwen2":
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common, tie_word_embeddings=True))
    if kind == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common, head_dim=16))
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if kind == "llama3":
        rope = {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }  # fmt: skip
    config = transformers.LlamaConfig(**common, rope_parameters=rope, attention_bias=kind == "llama3")
    return transformers.LlamaForCausalLM(config)


def save(kind: str, folder: Path, layers: int = LAYERS, **how):
    """The model, and its folder. Weights so large that every part matters and greedy texts do not repeat at once."""
    torch.manual_seed(KINDS.index(kind))
    model = make(kind, layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.5, 1.5)
            else:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder, **how)
    return model, folder


def small_tokenizer() -> Tokenizer:
    """A byte-level BPE: characters of several bytes span tokens."""
    text = "the cat sat on the mat and the dog saw the cat " * 20
    return train_bpe([text], VOCABULARY).tokenizer


@torch.no_grad()
def generate(model, prompt: list[int], count: int) -> list[int]:
    """Greedy text by transformers, with its cache."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()
