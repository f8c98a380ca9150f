"""`text`: a person's own file, or a folder of them (`-e dataset=book.txt`)."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from smolcluster.data.corpus import Corpus
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.owntext import TEXT_SUFFIXES, text_files
from smolcluster.spec.run import DataSpec

KEY = "data.path"
# A file is read in parts of this size: a book of any length fits into a small memory.
PART_CHARACTERS = 1 << 16


def load(data: DataSpec) -> Corpus:
    """The file, or every text file below the folder in the order of their paths, a document each.

    All are read through once before; ConfigError names every file that is missing, empty or not UTF-8.
    """
    if not data.path:
        fix = "-e dataset=book.txt, or --override data.path=book.txt"
        raise ConfigError([Problem("", 0, KEY, "the dataset is a text of your own, but no path is given", fix)])
    path = Path(data.path).expanduser()
    files = files_of(path)
    problems = [problem for file in files if (problem := _wrong(file)) is not None]
    if problems:
        raise ConfigError(problems)
    many = f", {len(files)} files" if path.is_dir() else ""
    return Corpus("text", f"{path.resolve()}{many}", "the owner's own text, not stated", map(_parts, files))


def files_of(path: Path) -> list[Path]:
    """The text files that `path` means. ConfigError when there is none."""
    if not path.exists():
        fix = "check the path; a relative one counts from the folder the command was called in"
        raise ConfigError([Problem(str(path), 0, KEY, "there is no such file or folder", fix)])
    found = text_files(path)
    if not found:
        what = f"no text file in this folder (looked for {', '.join(TEXT_SUFFIXES)}, also in its sub-folders)"
        raise ConfigError([Problem(str(path), 0, KEY, what, "give a folder of .txt files, or one file of any name")])
    return found


def _parts(file: Path) -> Iterator[str]:
    """The file's text with "\\n" line ends and no byte order mark, in parts."""
    with file.open(encoding="utf-8-sig") as text:  # Python's text files make all line ends one
        while part := text.read(PART_CHARACTERS):
            yield part


def _wrong(file: Path) -> Problem | None:
    """What is wrong with a file, found by reading it once through: not UTF-8, not readable, or without any text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    text = False
    first, before = b"", 0
    try:
        with file.open("rb") as data:
            while part := data.read(PART_CHARACTERS):
                first = first or part
                held = decoder.getstate()[0]
                text = bool(decoder.decode(part).lstrip("\ufeff").strip()) or text
                before += len(part)
            held, part = decoder.getstate()[0], b""
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        position = before - len(held) + error.start
        what = f"is not UTF-8 text: byte {error.object[error.start]:#04x} at position {position}"
        return Problem(str(file), 0, KEY, what, f"convert it: {_conversion(first, file)}")
    except OSError as error:
        return Problem(str(file), 0, KEY, f"cannot be read: {error.strerror}", "check its permissions")
    return None if text else Problem(str(file), 0, KEY, "is empty", "give a file with text in it")


def _conversion(data: bytes, file: Path) -> str:
    encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
    return f"iconv -f {encoding} -t UTF-8 {file.name} > {file.stem}-utf8.txt"
