"""config.json of a Llama, Mistral or Qwen that was trained, as transformers writes it."""

from __future__ import annotations

from typing import Any

from smolcluster.models.gpt import INIT_STD
from smolcluster.spec.run import GPTSpec
from smolcluster.spec.shape import Rope

_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def llama_config(spec: GPTSpec, end: int | None) -> dict[str, Any]:
    """What spec.shape reads back as the same. `end`: the token between texts."""
    blocks = spec.llama
    assert blocks is not None, "hf.py asks for Llama's kin alone"
    return {
        "architectures": [f"{_CLASSES[blocks.kind]}ForCausalLM"],
        "model_type": blocks.kind,
        "hidden_act": "silu",
        "hidden_size": spec.model_dim,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": blocks.kv_heads,
        "head_dim": blocks.head_dim,
        "intermediate_size": spec.ff_dim,
        "max_position_embeddings": spec.num_positions,
        "vocab_size": spec.vocab_size,
        "rms_norm_eps": blocks.norm_eps,
        # Qwen 2 has its biases without saying so.
        "attention_bias": blocks.out_bias,
        "mlp_bias": blocks.mlp_bias,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        **_rope(blocks.rope),
        "initializer_range": INIT_STD,
        "tie_word_embeddings": spec.tie_embeddings,
        "dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
    }


def _rope(rope: Rope) -> dict[str, Any]:
    """`rope_parameters` of transformers 5, and what those before it read."""
    scaling: dict[str, Any] = {"rope_type": rope.scaling}
    if rope.scaling != "default":
        scaling["factor"] = rope.factor
    if rope.scaling == "llama3":
        scaling |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_positions,
        }
    before = {"rope_scaling": scaling} if rope.scaling != "default" else {}
    return {"rope_theta": rope.theta, "rope_parameters": {**scaling, "rope_theta": rope.theta}, **before}
