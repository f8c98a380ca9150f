"""`text`: a person's own file, or a folder of them (`-e dataset=book.txt`)."""

from __future__ import annotations

from pathlib import Path

from smolcluster.data.corpus import Corpus
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.owntext import TEXT_SUFFIXES, text_files
from smolcluster.spec.run import DataSpec

KEY = "data.path"


def load(data: DataSpec) -> Corpus:
    """The file, or every text file below the folder in the order of their paths, a document each.

    ConfigError names every file that is missing, empty or not UTF-8.
    """
    if not data.path:
        fix = "-e dataset=book.txt, or --override data.path=book.txt"
        raise ConfigError([Problem("", 0, KEY, "the dataset is a text of your own, but no path is given", fix)])
    path = Path(data.path).expanduser()
    problems: list[Problem] = []
    documents = tuple(text for file in files_of(path) if (text := _read(file, problems)) is not None)
    if problems:
        raise ConfigError(problems)
    many = f", {len(documents)} files" if path.is_dir() else ""
    return Corpus("text", f"{path.resolve()}{many}", "the owner's own text, not stated", documents)


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


def _read(file: Path, problems: list[Problem]) -> str | None:
    """The file's text with "\\n" line ends and no byte order mark; None, and a problem noted, if it has none."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text: byte {error.object[error.start]:#04x} at position {error.start}"
        problems.append(Problem(str(file), 0, KEY, what, f"convert it: {_conversion(error.object, file)}"))
        return None
    except OSError as error:
        problems.append(Problem(str(file), 0, KEY, f"cannot be read: {error.strerror}", "check its permissions"))
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        problems.append(Problem(str(file), 0, KEY, "is empty", "give a file with text in it"))
        return None
    return text


def _conversion(data: bytes, file: Path) -> str:
    encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
    return f"iconv -f {encoding} -t UTF-8 {file.name} > {file.stem}-utf8.txt"
