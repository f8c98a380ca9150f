"""Where data comes from: one small module per dataset, found by name.

A text is a function DataSpec -> Corpus, pictures one to Pictures. What is taken, from where and under which licence is
in there; nothing falls back silently to something of another kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from smolcluster.data.corpus import Corpus
from smolcluster.data.pictures import Pictures
from smolcluster.data.sources import hub, mnist, own_text, pydoc, wiki_sample
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.run import DataSpec

SOURCES: Mapping[str, Callable[[DataSpec], Corpus]] = MappingProxyType(
    {
        "pydoc": lambda _: pydoc.load(),
        "wikitext2": hub.load_wikitext2,
        "snli": hub.load_snli,
        "wiki-sample": lambda _: wiki_sample.load(),
        "text": own_text.load,
    }
)


def load_corpus(data: DataSpec) -> Corpus:
    """The corpus `data` asks for. ConfigError when there is no such dataset, or it cannot be had."""
    source = _BY_NAME.get(_plain(data.dataset))
    if source is None:
        raise ConfigError([_unknown(data.dataset)])
    return source(data)


def load_pictures(data: DataSpec, cache: Path) -> Pictures:
    """The pictures `data` asks for. `cache` is where data folders and downloads are kept. ConfigError as above."""
    if _plain(data.dataset) != "mnist":
        what = f"{data.dataset} is text: an nn model is trained on pictures"
        raise ConfigError([Problem("", 0, "data.dataset", what, "choose mnist, or --model gpt")])
    return mnist.load(data, cache)


def _plain(name: str) -> str:
    """wiki-sample, wiki_sample, WikiSample: one name."""
    return name.lower().replace("-", "").replace("_", "")


_BY_NAME = {_plain(name): load for name, load in SOURCES.items()}


def _unknown(name: str) -> Problem:
    if name == "mnist":
        what = "mnist is images: a gpt model is trained on text"
        return Problem("", 0, "data.dataset", what, f"choose one of {', '.join(SOURCES)}")
    close = difflib.get_close_matches(name, SOURCES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    fix = f"{hint}Choose one of {', '.join(SOURCES)}, or give the path of a text file or folder"
    return Problem("", 0, "data.dataset", f"there is no dataset {name!r}", fix)
