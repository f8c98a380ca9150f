"""Which tokenizer turns the corpus into numbers: one trained on it, one in a folder, one of the hub. No torch.

bpe:2048                  a byte-level BPE of 2,048 entries, trained on the training split
path/to/folder            with tokenizer.json, or vocab.json and merges.txt (GPT-2's files)
openai-community/gpt2     a hub id: its local cache first, then the hub
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from smolcluster.data.meta import TOKENIZER_FILE
from smolcluster.errors import ConfigError, Problem

END_OF_TEXT = "<|endoftext|>"
KEY = "data.tokenizer"
OWN_BPE = "--override data.tokenizer=bpe:2048 trains one on the corpus, with no network"
# 256 bytes and the token that ends a document.
SMALLEST_BPE = 257
_END_CANDIDATES = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "[SEP]")
# (hub id, file name, local only) -> the file's path; None when it cannot be had.
Fetch = Callable[[str, str, bool], Path | None]


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


def load_tokenizer(setting: str, fetch: Fetch | None = None) -> TokenizerChoice:
    """A ready tokenizer from a folder, a tokenizer.json, or the hub. ConfigError says what is missing and the way out.

    `fetch` gets one file of a hub id (for tests); None is the real cache and hub.
    """
    path = Path(setting).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _choice(_read(path), f"file {path}", None)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", setting):
        return _from_hub(setting, fetch or hub_file)
    raise problem(f"{setting!r} is neither bpe:N, nor a folder that exists, nor a hub id like openai-community/gpt2")


def _from_folder(folder: Path) -> TokenizerChoice:
    config = folder / "tokenizer_config.json"
    hint = config if config.is_file() else None
    if (folder / TOKENIZER_FILE).is_file():
        return _choice(_read(folder / TOKENIZER_FILE), f"folder {folder}", hint)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file():
        return _choice(_gpt2_files(vocab, merges), f"folder {folder}", hint)
    raise problem(f"the folder {folder} has neither tokenizer.json nor vocab.json with merges.txt")


def _from_hub(name: str, fetch: Fetch) -> TokenizerChoice:
    for local in (True, False):
        where = "the local hub cache" if local else "the hub"
        hint = fetch(name, "tokenizer_config.json", local)
        file = fetch(name, TOKENIZER_FILE, local)
        if file is not None:
            return _choice(_read(file), f"{name} from {where}", hint)
        vocab, merges = fetch(name, "vocab.json", local), fetch(name, "merges.txt", local)
        if vocab is not None and merges is not None:
            return _choice(_gpt2_files(vocab, merges), f"{name} from {where}", hint)
    what = f"the tokenizer {name!r} is no local folder, not in the local hub cache, and could not be had from the hub"
    raise problem(what, f"connect to the network or name a local folder; {OWN_BPE}")


def hub_file(name: str, file: str, local: bool) -> Path | None:
    """One file of a model repository, from the hub's cache on this machine or from the hub; None if it is not there."""
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(name, file, local_files_only=local, etag_timeout=5))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, OSError):
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
    except Exception as error:  # noqa: BLE001  tokenizers raises bare Exception
        raise problem(f"{vocab} and {merges} are not GPT-2 tokenizer files: {error}") from error
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _read(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001  tokenizers raises bare Exception
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


def pieces(documents: Iterable[str], size: int) -> Iterator[tuple[str, bool]]:
    """The documents cut into texts of about `size` characters; True with the last piece of a document.

    Cuts fall behind a line's end (a tokenizer then sees a word whole), or after 4 x size where no line ends.
    """
    for document in documents:
        start = 0
        while start < len(document):
            cut = document.find("\n", start + size, start + 4 * size) + 1 or start + 4 * size
            cut = len(document) if start + size >= len(document) else min(cut, len(document))
            yield document[start:cut], cut == len(document)
            start = cut
