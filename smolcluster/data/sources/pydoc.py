"""`pydoc`: the language reference that ships inside every CPython. Real prose and code, no network, no package.

The topics repeat each other (`compound` holds `if`, `for`, `while` ... whole). A paragraph that came before is left
out, so that nothing of the validation documents can be read in the training ones.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

from smolcluster.data.corpus import Corpus
from smolcluster.errors import ConfigError, Problem


def load() -> Corpus:
    """pydoc_data.topics of the running interpreter, a document per topic."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        what = f"this Python ({platform.python_version()}) was installed without its pydoc_data"
        fix = "use a complete Python, or your own text: -e dataset=book.txt"
        raise ConfigError([Problem("", 0, "data.dataset", what, fix)]) from None
    source = f"pydoc_data.topics of {platform.python_implementation()} {platform.python_version()}"
    return Corpus("pydoc", source, "PSF-2.0", without_repeats(topics))


def without_repeats(topics: Mapping[str, str]) -> tuple[str, ...]:
    """The topics in the order of their names, each paragraph only where it comes first."""
    seen: set[str] = set()
    documents: list[str] = []
    for name in sorted(topics):
        kept: list[str] = []
        for paragraph in topics[name].strip("\n").split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                kept.append(paragraph)
        if kept:
            documents.append("\n\n".join(kept) + "\n")
    return tuple(documents)
