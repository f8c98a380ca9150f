"""What a model folder's small files say, in all the ways in which they are written."""

import json

import pytest

from smolcluster.errors import InputError
from smolcluster.infer.about import chat_template, ends_of, special_tokens, tokenizer_of
from tests.infer.infer_models import small_tokenizer


def write(folder, **files):
    for name, content in files.items():
        file = folder / name.replace("__", ".")
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, None),
        ({"tokenizer_config__json": {"chat_template": "plain"}}, "plain"),
        ({"tokenizer_config__json": {}}, None),
        (
            {"chat_template__json": {"chat_template": "apart"}, "tokenizer_config__json": {"chat_template": "x"}},
            "apart",
        ),
        ({"chat_template__jinja": "a file's", "tokenizer_config__json": {"chat_template": "x"}}, "a file's"),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "no"},
                        {"name": "default", "template": "yes"},
                    ]
                }
            },
            "yes",
        ),
        ({"tokenizer_config__json": {"chat_template": [{"name": "tool_use", "template": "no"}]}}, None),
    ],
)
def test_a_chat_template_is_found_where_it_is(tmp_path, files, template):
    assert chat_template(write(tmp_path, **files)) == template


def test_special_tokens_are_texts_or_objects_with_one(tmp_path):
    write(
        tmp_path,
        special_tokens_map__json={"bos_token": "<a>", "unk_token": {"content": "<u>"}},
        tokenizer_config__json={"bos_token": {"content": "<b>"}, "eos_token": None, "model_max_length": 7},
    )
    assert special_tokens(tmp_path) == {"bos_token": "<b>", "unk_token": "<u>"}


def test_what_cannot_be_read_is_named(tmp_path):
    write(tmp_path, tokenizer_config__json="{")
    with pytest.raises(InputError, match=r"tokenizer_config.json: is not JSON"):
        chat_template(tmp_path)
    write(tmp_path, tokenizer_config__json=[])
    with pytest.raises(InputError, match="is no JSON object"):
        special_tokens(tmp_path)
    write(tmp_path, tokenizer__json="nothing")
    with pytest.raises(InputError, match="fetch the model again"):
        tokenizer_of(tmp_path)


def test_the_end_of_a_text_is_the_model_s_say_else_the_tokenizer_s(tmp_path):
    assert tokenizer_of(tmp_path) is None
    assert ends_of(tmp_path, None) == frozenset()
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    choice = tokenizer_of(tmp_path)
    assert ends_of(tmp_path, choice) == {small_tokenizer().token_to_id("<|endoftext|>")}
    write(tmp_path, generation_config__json={"eos_token_id": [3, 4]})
    assert ends_of(tmp_path, choice) == {3, 4}
