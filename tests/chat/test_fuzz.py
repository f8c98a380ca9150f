"""The schema fuzzed: whatever is sent, the answer is one that the schema knows, and never a 500."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from smolcluster.chat.backend.api import create_app
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.request import prompt_ids
from tests.chat.fake_head import ABOUT, FakeHead, written
from tests.infer.infer_models import small_tokenizer


class Reading(FakeHead):
    """Reads prompts as an engine does, and refuses them so."""

    def __init__(self) -> None:
        super().__init__(lambda request: written("Hel", "lo"))
        self.model = ABOUT.model_copy(update={"context": 1 << 20})
        self._tokenizer = small_tokenizer()
        self.most = 1 << 40

    def submit(self, request, tell):
        prompt_ids(request, self._tokenizer, self.model.vocabulary, self.model.context)
        return super().submit(request, tell)

    def count(self, text):
        return len(self._tokenizer.encode(text).ids)


@pytest.fixture(scope="module")
def schema():
    # The name by which the client in this process asks; bodies that are too large have tests of their own.
    app = create_app(Reading(), ApiSettings(names=("testserver",), body_bytes=1 << 26))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


OPERATIONS = {
    ("/answers/{answer}", "DELETE"), ("/answers/{answer}/events", "GET"),
    ("/chat", "POST"), ("/config", "GET"), ("/health", "GET"), ("/links", "POST"), ("/metrics", "GET"),
    ("/reconnect", "POST"), ("/stages", "GET"), ("/tablets", "GET"),
    ("/v1/chat/completions", "POST"), ("/v1/completions", "POST"), ("/v1/models", "GET"), ("/v1/models/{model}", "GET"),
}  # fmt: skip


# What a schema cannot say: ids are below the vocabulary's size, prompts are not empty, n times the prompts is bounded.
RELATED = ("/v1/completions",)


def fuzz(schema, path: str, method: str, mode: GenerationMode, examples: int) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def answers_as_the_schema_says(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = ABOUT.name  # others are not served, and nothing further would be looked at
        case.call_and_validate(excluded_checks=[positive_data_acceptance] if path in RELATED else [])

    answers_as_the_schema_says()


def test_every_operation_is_fuzzed(schema):
    found = {(path, method.upper()) for path, item in schema.raw_schema["paths"].items() for method in item}
    assert found == OPERATIONS


# Bodies that the schema allows, and bodies that it does not; without a body there is nothing to get wrong.
CASES = [(*operation, GenerationMode.POSITIVE) for operation in sorted(OPERATIONS)] + [
    (path, "POST", GenerationMode.NEGATIVE) for path in ("/chat", "/v1/chat/completions", "/v1/completions")
]


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_answers_are_as_the_schema_says(schema, path, method, mode):
    fuzz(schema, path, method, mode, 40)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_answers_are_as_the_schema_says_for_long(schema, path, method, mode):
    fuzz(schema, path, method, mode, 500)
