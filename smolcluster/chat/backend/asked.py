"""What clients may ask: the bodies of /chat, /v1/completions and /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from smolcluster.infer.request import Strategy

MOST_MESSAGES = 1024
MOST_CHOICES = 16
MOST_PROMPTS = 16
MOST_STOPS = 16
LONGEST_STOP = 512
LONGEST_ID = 100
_MOST_TOKENS = 1 << 31
# More keys than that, and each would be told of.
_MOST_KEYS = 256
# OpenAI's parameters that change nothing about the text: for accounts, caches and tools that do not exist here.
_HARMLESS = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "parallel_tool_calls",
    }
)  # fmt: skip
# Those that would change it and cannot: the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
_OF_MESSAGES: dict[str, tuple[object, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "refusal": (None,),
    "tool_calls": (None, []),
}


def _whole(text: str) -> str:
    """JSON can hold half a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("unicode", "half a surrogate pair is no text") from error
    return text


def _without(value: Any, harmless: frozenset[str], unsupported: dict[str, tuple[object, ...]]) -> Any:
    """The object without what may be ignored. Refuses what may not."""
    if not isinstance(value, dict):
        return value
    for name in value.keys() & unsupported.keys():
        if value[name] not in unsupported[name]:
            raise PydanticCustomError("unsupported", "this server does not support it", {"param": name})
    return {name: given for name, given in value.items() if name not in harmless and name not in unsupported}


def _number(value: Any) -> Any:
    """2.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, AfterValidator(_whole)]
Whole = Annotated[int, BeforeValidator(_number)]
Natural = Annotated[int, Field(ge=0, le=_MOST_TOKENS), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=1, le=_MOST_TOKENS), BeforeValidator(_number)]
Choices = Annotated[int, Field(ge=1, le=MOST_CHOICES), BeforeValidator(_number)]
# Lists that may be long: the first of their items that is wrong is told, since all of them could be, and telling of
# half a million takes seconds in which nobody else is served.
Tokens = Annotated[list[Natural], Field(min_length=1, fail_fast=True)]
Stop = Annotated[Text, Field(min_length=1, max_length=LONGEST_STOP)]


class Asked(BaseModel):
    """A JSON object: no unknown keys, numbers are numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_KEYS:
            raise PydanticCustomError(
                "keys", "an object with {count} keys is nothing known here", {"count": len(value)}
            )
        return value


class TextPart(Asked):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class Message(Asked):
    """One of a conversation. A list of parts is joined by line ends."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(fail_fast=True)]

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return _without(value, frozenset({"name"}), _OF_MESSAGES)

    def as_template(self) -> dict[str, str]:
        """As templates know it: a developer's word is the system's."""
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]


class Decoded(Asked):
    """How to decode. What is not given is as model_config_inference.yaml says.

    A `strategy` uses the parameters of its own name and leaves the others out; without one, those that are given
    change the active strategy. `temperature` 0 is greedy. A `seed` counts modulo 2^64; without one each answer is drawn
    anew.
    """

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: Natural | None = None
    strategy: Strategy | None = None
    seed: Whole | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    max_tokens: Count | None = None
    stream: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def length(self) -> int | None:
        """The most tokens to write."""
        return self.max_tokens


class ChatAsked(Decoded):
    """POST /chat, and each message of /ws/chat: one `message`, or the conversation so far."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [given], "properties": {given: {"type": kind}, other: {"type": "null"}}}
                for given, kind, other in (("message", "string", "messages"), ("messages", "array", "message"))
            ]
        }
    )

    message: Text | None = None
    messages: Messages | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.message is None) == (self.messages is None):
            raise PydanticCustomError("one_of", "give either message or messages", {"param": "messages"})
        return self

    @property
    def conversation(self) -> list[Message]:
        """All of it."""
        return self.messages or [Message(role="user", content=self.message or "")]


class ResumeAsked(Asked):
    """A message of /ws/chat: go on with an answer, by the `id` of its begin event, after the event of that number."""

    resume: Annotated[str, Field(max_length=LONGEST_ID)]
    after: Annotated[int, Field(ge=-1, le=_MOST_TOKENS), BeforeValidator(_number)] = -1


class StreamOptions(Asked):
    """`include_usage`: one more chunk at the end with the tokens counted. Without a stream it means nothing."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class OpenAIAsked(Decoded):
    """What both of OpenAI's endpoints share."""

    # Refused where they ask for something; the endpoints' own parameters are taken out.
    unsupported: ClassVar[dict[str, tuple[object, ...]]] = _UNSUPPORTED

    model: Text
    n: Choices | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return _without(value, _HARMLESS, cls.unsupported)

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatCompletionAsked(OpenAIAsked):
    """POST /v1/chat/completions. Further parameters of OpenAI's are taken where they ask for nothing special."""

    messages: Messages
    max_completion_tokens: Count | None = None

    @property
    def length(self) -> int | None:
        """The newer name goes before the older one."""
        return self.max_completion_tokens or self.max_tokens


class CompletionAsked(OpenAIAsked):
    """POST /v1/completions: text or token ids to go on from, one or several. Special tokens in it count."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    echo: bool | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(self.prompts) * (self.n or 1) > MOST_CHOICES:
            raise PydanticCustomError("choices", "at most {most} texts at once", {"param": "n", "most": MOST_CHOICES})
        if self.echo and not all(isinstance(prompt, str) for prompt in self.prompts):
            raise PydanticCustomError("echo", "only a text can be echoed", {"param": "echo"})
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each on its own."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [[part for part in self.prompt if isinstance(part, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]
