"""Preparing a text takes as much memory as a text of another size: none of it is held whole."""

import subprocess
import sys

from smolcluster.data.tokenizer import train_bpe

PARAGRAPH = "".join(f"Line {i}: the quick brown fox jumps over the lazy dog, {i * i} times.\n" for i in range(500))
MEASURE = """
import pathlib, resource, sys
from smolcluster.data.prepare import prepare_corpus
from smolcluster.data.sources import load_corpus
from smolcluster.spec.run import DataSpec
book, cache = map(pathlib.Path, sys.argv[1:3])
tokenizer = sys.argv[3]
corpus = load_corpus(DataSpec(dataset="text", path=str(book), tokenizer="-"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare_corpus(corpus, tokenizer, 128, cache)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def grown_mb(tmp_path, megabytes, tokenizer):
    """How far a process's peak grows while it prepares a text of that size."""
    book = tmp_path / f"book{megabytes}.txt"
    with book.open("w") as out:
        for _ in range(megabytes * 1_000_000 // len(PARAGRAPH)):
            out.write(PARAGRAPH)
    command = [sys.executable, "-c", MEASURE, str(book), str(tmp_path / f"cache{megabytes}"), tokenizer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return int(done.stdout) / scale


def test_a_larger_text_takes_no_more_memory(tmp_path):
    train_bpe([PARAGRAPH], 300).tokenizer.save(str(tmp_path / "tokenizer.json"))
    small, large = (grown_mb(tmp_path, size, str(tmp_path / "tokenizer.json")) for size in (3, 15))
    assert large - small < 6, f"12 MB more text took {large - small:.1f} MB more memory"
