"""What somebody asks for, what they get, and how much the engine takes on at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenizers import Tokenizer

from smolcluster.errors import RequestError
from smolcluster.infer.text import text_ids
from smolcluster.models.sampling import Sampling
from smolcluster.spec.modelfile import Decoding, ServedModel

# What torch's generator takes.
_SEEDS = (-(2**63), 2**64 - 1)
Strategy = Literal["greedy", "sampling", "top_p", "top_k"]
Finish = Literal["stop", "length", "cancelled"]
Trouble = Literal["deadline", "stage_lost", "session", "closed"]


@dataclass(frozen=True)
class Request:
    """One text to continue. `prompt` is text, or token ids; `seed` None takes the engine's.

    `max_tokens` None goes on to the model's default; more than the context has room for is cut. `deadline_s` counts
    from submission, waiting included; None is the engine's. `literal`: parts of a text prompt, half-open and in order,
    that are only text: what looks like a special token in there is none.
    """

    prompt: str | Sequence[int]
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    deadline_s: float | None = None
    ignore_end: bool = False
    literal: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens read and written. `first_s`: seconds from submission to the first token; None when none came."""

    prompt_tokens: int
    completion_tokens: int
    first_s: float | None
    seconds: float


@dataclass(frozen=True)
class Delta:
    """A token, and the text that can be shown because of it: none while a character or a stop string is open."""

    token: int
    text: str


@dataclass(frozen=True)
class Done:
    """The end. `text` is what was still held back."""

    reason: Finish
    text: str
    usage: Usage


@dataclass(frozen=True)
class Failed:
    """The end, and no good one."""

    trouble: Trouble
    message: str
    usage: Usage


Event = Delta | Done | Failed


@dataclass(frozen=True)
class Limits:
    """What the engine takes on. `tokens`: room in all active sessions' caches together; None as the sessions need.

    `in_flight` None: as many steps as there are stages. `step_s`: after so long without an answer the chain is lost.
    """

    sessions: int = 16
    queue: int = 64
    tokens: int | None = None
    prefill_chunk: int = 128
    in_flight: int | None = None
    request_s: float = 300.0
    step_s: float = 120.0


def prompt_ids(request: Request, tokenizer: Tokenizer | None, vocabulary: int, context: int) -> list[int]:
    """The token ids of its prompt. RequestError when it cannot be served as it is."""
    if isinstance(request.prompt, str):
        if tokenizer is None:
            raise RequestError("this model has no tokenizer: give token ids")
        prompt = text_ids(request.prompt, tokenizer, request.literal)
    else:
        prompt = [int(token) for token in request.prompt]
    if not prompt:
        raise RequestError("the prompt is empty: there is nothing to go on from")
    if not all(0 <= token < vocabulary for token in prompt):
        raise RequestError(f"the prompt has tokens that are not in the vocabulary of {vocabulary}")
    if len(prompt) > context:
        raise RequestError(f"the prompt has {len(prompt)} tokens, the context is {context}")
    if request.stop and tokenizer is None:
        raise RequestError("this model has no tokenizer: there can be no stop strings")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise RequestError(f"max_tokens must be 1 or more, not {request.max_tokens}")
    if request.seed is not None and not _SEEDS[0] <= request.seed <= _SEEDS[1]:
        raise RequestError(f"the seed must be from {_SEEDS[0]} to {_SEEDS[1]}, not {request.seed}")
    return prompt


def default_sampling(model: ServedModel, strategy: Strategy | None = None) -> Sampling:
    """How model_config_inference.yaml says to decode: the active strategy, or another of its strategies by name."""
    name = strategy or model.active_decoding_strategy
    return sampling_of(name, model.decoding_strategies.get(name))


def sampling_of(name: Strategy, said: Decoding | None) -> Sampling:
    """How a strategy decodes with what model_config_inference.yaml says of it; None where it says nothing."""
    if name == "greedy":
        return Sampling(temperature=0.0)
    temperature = said.temperature if said is not None else 1.0
    if name == "top_k":
        return Sampling(temperature, top_k=(said.k if said else None) or 40)
    if name == "top_p":
        return Sampling(temperature, top_p=(said.p if said else None) or 0.9)
    return Sampling(temperature)
