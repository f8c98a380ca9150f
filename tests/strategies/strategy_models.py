"""Small models for the tests of strategies, and their batches."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from smolcluster.models import build_model
from smolcluster.models.gpt import GPT
from smolcluster.models.nn import SimpleNN
from smolcluster.models.units import ShardUnit
from smolcluster.spec.run import GPTSpec, NNSpec

VOCAB, LENGTH = 61, 8


class TinyLM(nn.Module):
    """Tied embeddings, a frozen parameter, a buffer, one parameter nobody uses and one that only some batches use."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCAB, 24)
        self.unused = nn.Parameter(torch.randn(7))
        self.sometimes = nn.Parameter(torch.randn(24))
        self.frozen = nn.Parameter(torch.randn(24), requires_grad=False)
        self.register_buffer("offset", torch.randn(24))
        self.up = nn.Linear(24, 50)
        self.down = nn.Linear(50, 24)
        self.head = nn.Linear(24, VOCAB, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(x) + self.frozen + self.offset
        marked = x[:, :1] == 0
        if bool(marked.any()):
            hidden = torch.where(marked[:, :, None], hidden * self.sometimes, hidden)
        return self.head(hidden + self.down(functional.gelu(self.up(hidden))))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self(x).flatten(0, 1), y.flatten())


class Layer(nn.Module):
    """x + down(gelu(up(x))), with a frozen bias and a parameter nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(24, 40)
        self.unused = nn.Parameter(torch.randn(5))
        self.down = nn.Linear(40, 24)
        self.up.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(functional.gelu(self.up(x)))


class ChainLM(nn.Module):
    """Five units: a tied embedding, three layers, a norm with the head. The second layer is for some samples only, so
    that a rank may have none for it; the third has nothing to train."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCAB, 24)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.layers[2].requires_grad_(False)
        self.norm = nn.LayerNorm(24)
        nn.init.normal_(self.embed.weight, std=0.2)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        hidden = self.layers[0](self.embed(x))
        marked = x[:, 0] == 0
        if bool(marked.any()):
            hidden = torch.where(marked[:, None, None], self.layers[1](hidden), hidden)
        hidden = self.norm(self.layers[2](hidden))
        return functional.cross_entropy(functional.linear(hidden, self.embed.weight).flatten(0, 1), y.flatten())

    def shard_units(self) -> list[ShardUnit]:
        layers = [ShardUnit(layer, (layer,)) for layer in self.layers]
        return [ShardUnit(self, (self.embed,), reread=False), *layers, ShardUnit(self.norm, (self.norm, self.embed))]


class NumbersNN(SimpleNN):
    """SimpleNN, its picture made of a sample's tokens, its class the first token that follows."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().loss(x / VOCAB, y[:, 0])

    def graded(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().graded(x / VOCAB, y[:, 0])


class WideLM(nn.Module):
    """A model of a quarter of a million parameters: big enough that headers do not count. One unit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, 256)
        self.hidden = nn.Sequential(nn.Linear(256, 500), nn.GELU(), nn.Linear(500, 256))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = functional.linear(self.hidden(self.embed(x)), self.embed.weight)
        return functional.cross_entropy(out.flatten(0, 1), y.flatten())


def gpt_of(width: int, layers: int, tied: bool, seed: int) -> GPT:
    spec = GPTSpec(
        model_dim=width, num_layers=layers, num_heads=2, ff_dim=4 * width, dropout=0, max_seq_len=LENGTH,
        tie_embeddings=tied, vocab_size=VOCAB,
    )  # fmt: skip
    return build_model(spec, seed=seed)


def wordy_gpt(seed: int) -> GPT:
    """Words enough that the rows a step looks up are few among them."""
    spec = GPTSpec(
        model_dim=16, num_layers=2, num_heads=2, ff_dim=32, dropout=0, max_seq_len=LENGTH, vocab_size=4000,
    )  # fmt: skip
    return build_model(spec, seed=seed)


def model_of(kind: str, seed: int) -> nn.Module:
    """A model by the name that tests give it."""
    if kind == "gpt" or kind == "untied gpt":
        return gpt_of(24, 2, kind == "gpt", seed)
    if kind == "wordy gpt":
        return wordy_gpt(seed)
    if kind == "wide gpt" or kind == "wide untied gpt":
        return gpt_of(128, 3, kind == "wide gpt", 0)
    if kind == "deep gpt":
        return gpt_of(64, 8, True, 0)
    if kind == "nn":
        return NumbersNN(NNSpec(input_dim=LENGTH, hidden=20, out=VOCAB), seed)
    if kind == "wide":
        return WideLM()
    return {"tiny": TinyLM, "chain": ChainLM}[kind](seed)


def samples_of(step: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(1, VOCAB, (count, LENGTH + 1), generator=generator)
    rows[0, 0] = 0  # one sample of each step takes the model's other way: only one rank sees it
    return rows[:, :-1], rows[:, 1:]


def shares_of(step: int, shares: tuple[int, ...], rank: int, micro: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A rank's part of a step's samples, in micro-batches of at most `micro`."""
    x, y = samples_of(step, sum(shares))
    start = sum(shares[:rank])
    x, y = x[start : start + shares[rank]], y[start : start + shares[rank]]
    return list(zip(x.split(micro), y.split(micro), strict=True)) if len(x) else []
