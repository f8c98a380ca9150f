"""`wiki-sample`: about a hundred Wikipedia articles that the gensim package carries for its own tests.

Only ever taken when it is asked for by this name: it is no stand-in for WikiText-2.
"""

from __future__ import annotations

import bz2
import importlib.util
import re
from pathlib import Path

from smolcluster.data.corpus import Corpus
from smolcluster.errors import ConfigError, Problem

FILE = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
QUOTES = re.compile("'{2,}")  # bold and italic, which gensim's filter leaves


def load() -> Corpus:
    """The sample's articles without markup, a document each."""
    spec = importlib.util.find_spec("gensim")
    if spec is None or not spec.submodule_search_locations:
        raise _missing("the package gensim, which carries it, is not installed", "pip install gensim")
    file = Path(spec.submodule_search_locations[0]) / "test" / "test_data" / FILE
    if not file.is_file():
        raise _missing(f"this gensim was installed without {file}", "pip install --force-reinstall gensim")
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki  # type: ignore[import-untyped]

    with bz2.open(file) as pages:
        articles = [(title, filter_wiki(text)) for title, text, _ in extract_pages(pages, ("0",))]
    documents = tuple(
        f"{title}\n\n{QUOTES.sub('', text).strip()}\n"
        for title, text in articles
        if text.strip() and not text.lstrip().lower().startswith("#redirect")
    )
    source = f"Wikipedia articles of 2011 in the package gensim ({FILE}), by their authors"
    return Corpus("wiki-sample", source, "CC-BY-SA-3.0", documents)


def _missing(what: str, fix: str) -> ConfigError:
    return ConfigError([Problem("", 0, "data.dataset", f"wiki-sample: {what}", fix)])
