import json
import random
import shutil

import pytest
from tokenizers import Tokenizer

from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.data.text import TextStream
from smolcluster.data.tokenizer import bpe_size, load_tokenizer, train_bpe
from smolcluster.errors import ConfigError

TEXTS = ["Once upon a time there was a cluster, små and 🦙-driven.\n\nIt trained; it served.  Twice!\n"] * 3
REPO = "openai-community/gpt2"
# Nothing listens on the discard port: refused at once.
NO_NETWORK = "http://127.0.0.1:9"


@pytest.fixture
def gpt2_files(tmp_path):
    """vocab.json and merges.txt as GPT-2's, with the end of text last, and no tokenizer.json."""
    folder = tmp_path / "gpt2"
    folder.mkdir()
    model = json.loads(train_bpe(TEXTS, 300).tokenizer.to_str())["model"]
    words = [word for word in model["vocab"] if word != "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate([*words, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges + "\n", encoding="utf-8")
    return folder


def hub_cache(root, files):
    """A hub cache as a download leaves it."""
    repo = root / "models--openai-community--gpt2"
    snapshot = repo / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name)
    for file in files.iterdir():
        shutil.copy(file, snapshot / file.name)
    return Hub(root, NO_NETWORK)


def test_a_trained_bpe_gives_any_text_back():
    choice = train_bpe(TEXTS, 300)
    tokenizer = choice.tokenizer
    for text in (*TEXTS, "Ĝis la revido\tżółw 漢字 \x00\r\n   x", " leading", ""):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    assert tokenizer.get_vocab_size() == 300
    assert (choice.end, tokenizer.id_to_token(0)) == (0, "<|endoftext|>")
    assert len(tokenizer.encode("there was a cluster").ids) < len("there was a cluster") / 1.5


def test_a_text_with_little_to_merge_gives_a_smaller_vocabulary():
    assert 257 <= train_bpe(["ab ab"], 2048).tokenizer.get_vocab_size() < 270


def test_bpe_settings():
    assert bpe_size("bpe:2048") == 2048
    assert bpe_size("openai-community/gpt2") is None
    for wrong in ("bpe:", "bpe:256", "bpe:-5", "bpe:many", "bpe:2_048"):
        with pytest.raises(ConfigError, match=r"a whole number from 257 on(.|\n)*bpe:2048"):
            bpe_size(wrong)


def test_a_folder_with_tokenizer_json(tmp_path):
    trained = train_bpe(TEXTS, 300).tokenizer
    trained.enable_truncation(4)
    trained.enable_padding(length=4)
    trained.save(str(tmp_path / "tokenizer.json"))
    for setting in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        choice = load_tokenizer(setting)
        assert len(choice.tokenizer.encode(TEXTS[0]).ids) > 4, "a file's truncation must not cut a corpus"
        assert choice.end == 0
        assert str(tmp_path) in choice.source


def test_a_folder_with_gpt2s_two_files_encodes_as_transformers_does(gpt2_files):
    from transformers import GPT2TokenizerFast

    choice = load_tokenizer(str(gpt2_files))
    theirs = GPT2TokenizerFast.from_pretrained(gpt2_files)
    text = TEXTS[0] + "<|endoftext|> and 🦙 on"
    assert choice.tokenizer.encode(text).ids == theirs(text).input_ids
    assert choice.end == choice.tokenizer.get_vocab_size() - 1
    assert choice.tokenizer.decode(choice.tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("declared", ["w", {"content": "w", "lstrip": False}])
def test_the_declared_end_token_comes_first(tmp_path, declared):
    train_bpe(TEXTS, 300).tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": declared}))
    choice = load_tokenizer(str(tmp_path))
    assert choice.end == choice.tokenizer.token_to_id("w") != 0
    (tmp_path / "tokenizer_config.json").write_text("not json")
    assert load_tokenizer(str(tmp_path)).end == 0


def test_the_hubs_cache_is_taken_without_a_network(tmp_path, gpt2_files):
    choice = load_tokenizer(REPO, hub_cache(tmp_path / "cache", gpt2_files))
    assert choice.source == f"{REPO} from the local hub cache"
    assert choice.tokenizer.to_str() == load_tokenizer(str(gpt2_files)).tokenizer.to_str()


def test_a_hub_out_of_reach_says_what_helps(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(REPO, Hub(tmp_path, NO_NETWORK))
    message = str(caught.value)
    assert "data.tokenizer: the tokenizer 'openai-community/gpt2' is no folder here, not in the local hub" in message
    assert "the hub cannot be reached" in message
    assert "--override data.tokenizer=bpe:2048" in message


class FakeHub(Hub):
    """A hub with these files, which says what was asked of it."""

    def __init__(self, folder, asked):
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "asked", asked)

    def cached(self, repo, file):
        return None

    def files(self, repo, kind="model"):
        return frozenset(file.name for file in self.folder.iterdir())

    def download(self, repo, file):
        self.asked.append(file)
        if file == "breaks.json":
            raise HubUnavailable("broken off")
        return self.folder / file


def test_only_what_the_hub_offers_is_downloaded(gpt2_files, tmp_path):
    asked = []
    assert load_tokenizer(REPO, FakeHub(gpt2_files, asked)).source == f"{REPO} from the hub"
    assert asked == ["vocab.json", "merges.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="the hub's 'openai-community/gpt2' has neither"):
        load_tokenizer(REPO, FakeHub(empty, asked))


def test_what_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"has neither tokenizer\.json nor vocab.json with merges\.txt"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not a tokenizer\.json of the tokenizers library"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("[")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ConfigError, match="are not GPT-2 tokenizer files"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ConfigError, match="neither bpe:N, nor a folder that exists, nor a hub id"):
        load_tokenizer("/no/such/folder/anywhere")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["plain words only, words only\n"] * 3, 270).tokenizer


@pytest.mark.parametrize(
    "text", ["plain woods", "små 🦙🦙 żółw 漢字!", "a\n\n b", "🦙", "e\u0301 \u200d👩\u200d🚀", "\ufffd ok"]
)
def test_text_streams_in_whole_characters(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert len(ids) > len(text.split()), "characters must span tokens for this to be a test"
    stream = TextStream(tokenizer)
    parts = [stream.feed(token) for token in ids]
    assert "".join(parts) + stream.finish() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


def test_an_open_character_shows_at_the_end_only(tokenizer):
    stream = TextStream(tokenizer)
    fed = "".join(stream.feed(token) for token in tokenizer.encode("ok 🦙").ids[:-1])
    assert fed == "ok "
    assert set(stream.finish()) == {"\ufffd"}


def test_any_tokens_stream_to_what_they_decode_to(tokenizer):
    generator = random.Random(5)
    for _ in range(300):
        ids = generator.choices(range(1, tokenizer.get_vocab_size()), k=generator.randint(1, 12))
        stream = TextStream(tokenizer)
        assert "".join(stream.feed(token) for token in ids) + stream.finish() == tokenizer.decode(ids)


def test_special_tokens_are_not_text(tokenizer):
    stream = TextStream(tokenizer)
    assert "".join(stream.feed(token) for token in tokenizer.encode("a<|endoftext|>b").ids) + stream.finish() == "ab"
