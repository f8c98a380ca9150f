"""From what a client asks to what the engine is asked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from smolcluster.chat.backend.asked import Decoded, Message
from smolcluster.chat.backend.refusals import ApiError
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.template import Prompt, plain
from smolcluster.infer.head import About
from smolcluster.infer.request import Request, Strategy, sampling_of
from smolcluster.models.sampling import Sampling

# A temperature below it would overflow, and picks the likeliest token anyway.
_COLDEST = 1e-4
_SEEDS = 1 << 63
# The parameters that each strategy uses.
_USES: dict[Strategy, frozenset[str]] = {
    "greedy": frozenset(),
    "sampling": frozenset({"temperature"}),
    "top_p": frozenset({"temperature", "top_p"}),
    "top_k": frozenset({"temperature", "top_k"}),
}


def sampling(asked: Decoded, about: About) -> Sampling:
    """How to choose: the strategy's way, changed by what was given."""
    name = asked.strategy or about.active_strategy
    how = sampling_of(name, about.strategies.get(name))
    uses = _USES[name] if asked.strategy else frozenset({"temperature", "top_p", "top_k"})
    given = {
        key: value
        for key, value in (("temperature", asked.temperature), ("top_p", asked.top_p), ("top_k", asked.top_k))
        if value is not None and key in uses
    }
    if given.get("top_p") == 0 or given.get("temperature", 1.0) < _COLDEST:
        return Sampling(temperature=0.0)
    return replace(how, **given)  # type: ignore[arg-type]  # top_k is the only int


def requests(
    prompts: Sequence[Prompt | str | list[int]], asked: Decoded, about: About, service: Service, count: int = 1
) -> list[Request]:
    """`count` requests for each prompt, one prompt's after the other's. Each draws with a seed of its own."""
    seed = secrets.randbelow(_SEEDS) if asked.seed is None else asked.seed
    how = sampling(asked, about)
    return [
        Request(
            prompt=prompt.text if isinstance(prompt, Prompt) else prompt,
            max_tokens=asked.length,
            sampling=how,
            stop=asked.stops,
            # Within what a torch generator takes.
            seed=(seed + _SEEDS + number) % (2 * _SEEDS) - _SEEDS,
            deadline_s=service.settings.request_s,
            literal=prompt.literal if isinstance(prompt, Prompt) else (),
        )
        for number, prompt in enumerate(prompt for prompt in prompts for _ in range(count))
    ]


async def conversation(messages: Sequence[Message], service: Service) -> Prompt:
    """The prompt of a conversation: through the model's template, or its last words where it has none."""
    told = [message.as_template() for message in messages]
    template = await service.template()
    return await service.call(lambda: plain(told) if template is None else template.render(told))


def check_model(name: str, about: About) -> None:
    """ApiError if this is not the served model's name."""
    if name != about.name:
        message = f"The model `{name}` does not exist: {about.name} is served here."
        raise ApiError(404, message, param="model", code="model_not_found")
