"""Which tokenizer turns the corpus into numbers: one trained on it, one in a folder, one of the hub. No torch.

bpe:2048                  a byte-level BPE of 2,048 entries, trained on the training split
path/to/folder            with tokenizer.json, or vocab.json and merges.txt (GPT-2's files)
openai-community/gpt2     a hub id: its local cache first, then the hub
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.data.meta import TOKENIZER_FILE
from smolcluster.errors import ConfigError, Problem

END_OF_TEXT = "<|endoftext|>"
KEY = "data.tokenizer"
OWN_BPE = "--override data.tokenizer=bpe:2048 trains one on the corpus, with no network"
# 256 bytes and the token that ends a document.
SMALLEST_BPE = 257
_END_CANDIDATES = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "[SEP]")
_GPT2_NAMES = ("vocab.json", "merges.txt")
_CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True)
class TokenizerChoice:
    """A tokenizer and what to say of it. `end` is the id of the token between documents, None if it has none."""

    tokenizer: Tokenizer
    source: str
    end: int | None


def problem(what: str, fix: str = OWN_BPE) -> ConfigError:
    """The error for a tokenizer setting that cannot be followed."""
    return ConfigError([Problem("", 0, KEY, what, fix)])


def bpe_size(setting: str) -> int | None:
    """N of "bpe:N", None for another kind of setting. ConfigError when N is no number or too small."""
    if not setting.startswith("bpe:"):
        return None
    number = setting.removeprefix("bpe:")
    if not re.fullmatch(r"[0-9]+", number) or int(number) < SMALLEST_BPE:
        raise problem(f"{setting!r} asks for a BPE of {number!r} entries: a whole number from {SMALLEST_BPE} on")
    return int(number)


def train_bpe(texts: Iterable[str], size: int) -> TokenizerChoice:
    """A byte-level BPE like GPT-2's of at most `size` entries, END_OF_TEXT among them. The same texts give the same.

    Fewer entries come out when the texts have no more pairs to merge.
    """
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TokenizerChoice(tokenizer, f"byte-level BPE trained on the corpus, {tokenizer.get_vocab_size()} entries", 0)


def load_tokenizer(setting: str, hub: Hub | None = None) -> TokenizerChoice:
    """A ready tokenizer from a folder, a tokenizer.json, or the hub. ConfigError says what is missing and the way out.

    `hub` None is the real one with its usual cache.
    """
    path = Path(setting).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _choice(_read(path), f"file {path}", None)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", setting):
        return _from_hub(setting, hub or Hub())
    raise problem(f"{setting!r} is neither bpe:N, nor a folder that exists, nor a hub id like openai-community/gpt2")


def _from_folder(folder: Path) -> TokenizerChoice:
    choice = _from_files({file.name: file for file in folder.iterdir() if file.is_file()}, f"folder {folder}")
    if choice is None:
        raise problem(f"the folder {folder} has neither tokenizer.json nor vocab.json with merges.txt")
    return choice


def _from_hub(name: str, hub: Hub) -> TokenizerChoice:
    wanted = (TOKENIZER_FILE, *_GPT2_NAMES, _CONFIG_FILE)
    cached = {file: path for file in wanted if (path := hub.cached(name, file)) is not None}
    if (choice := _from_files(cached, f"{name} from the local hub cache")) is not None:
        return choice
    try:
        offered = hub.files(name)
        loaded = {file: hub.download(name, file) for file in wanted if file in offered}
    except HubUnavailable as error:
        what = f"the tokenizer {name!r} is no folder here, not in the local hub cache, and {error}"
        raise problem(what, f"connect to the network, or name a local folder; {OWN_BPE}") from error
    if (choice := _from_files(loaded, f"{name} from the hub")) is not None:
        return choice
    raise problem(f"the hub's {name!r} has neither tokenizer.json nor vocab.json with merges.txt")


def _from_files(files: Mapping[str, Path], source: str) -> TokenizerChoice | None:
    """The tokenizer of the files of one folder, by name; None when they are none."""
    hint = files.get(_CONFIG_FILE)
    if TOKENIZER_FILE in files:
        return _choice(_read(files[TOKENIZER_FILE]), source, hint)
    if all(name in files for name in _GPT2_NAMES):
        return _choice(_gpt2_files(*(files[name] for name in _GPT2_NAMES)), source, hint)
    return None


def _byte_level(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _gpt2_files(vocab: Path, merges: Path) -> Tokenizer:
    try:
        tokenizer = _byte_level(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise problem(f"{vocab} and {merges} are not GPT-2 tokenizer files: {error}") from error
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _read(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise problem(f"{file} is not a tokenizer.json of the tokenizers library: {error}") from error


def _choice(tokenizer: Tokenizer, source: str, config: Path | None) -> TokenizerChoice:
    """Drop what a file may carry for models of fixed length, and find the token that ends a document."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    candidates = (*_declared_end(config), *_END_CANDIDATES)
    ends = (tokenizer.token_to_id(token) for token in candidates)
    return TokenizerChoice(tokenizer, source, next((end for end in ends if end is not None), None))


def _declared_end(config: Path | None) -> tuple[str, ...]:
    """eos_token of a tokenizer_config.json, which is a text or an object with the text as `content`."""
    if config is None:
        return ()
    try:
        declared = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return ()
    if isinstance(declared, dict):
        declared = declared.get("content")
    return (declared,) if isinstance(declared, str) else ()
