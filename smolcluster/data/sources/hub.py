"""`wikitext2` and `snli`: datasets of the Hugging Face hub, or the files their authors published.

A folder (data.path) with the authors' own files is read as it is: wiki.train.raw and wiki.valid.raw, or
snli_1.0_train.jsonl and snli_1.0_dev.jsonl. Everything else is found by tables.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from smolcluster.data.corpus import Corpus
from smolcluster.data.sources.tables import HubTable, Rows, find, problem
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.run import DataSpec

SNLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class HubText:
    """A table whose rows become documents, and the names of the authors' files with how those are read as such rows."""

    table: HubTable
    documents: Callable[[Rows], Iterator[str]]
    files: tuple[tuple[str, str], ...]
    rows: Callable[[Path], Rows]


def articles(rows: Rows) -> Iterator[str]:
    """WikiText's rows are lines; an article begins with a line ` = Title = `. A document per article."""
    lines: list[str] = []
    for row in rows:
        line = str(row["text"])
        title = line.startswith(" = ") and not line.startswith(" = = ")
        if title and any(part.strip() for part in lines):
            yield "".join(lines)
            lines = []
        lines.append(line if line.endswith("\n") or not line else line + "\n")
    if any(line.strip() for line in lines):
        yield "".join(lines)


def pairs(rows: Rows) -> Iterator[str]:
    """SNLI's rows as three lines: premise, hypothesis, label. Rows without an agreed label (-1) are left out."""
    for row in rows:
        if 0 <= (label := int(row["label"])) < len(SNLI_LABELS):
            yield f"{row['premise']}\n{row['hypothesis']}\n{SNLI_LABELS[label]}\n"


def _lines(file: Path) -> Rows:
    with file.open(encoding="utf-8") as text:
        for line in text:
            yield {"text": "" if line.isspace() else line}


def _annotations(file: Path) -> Rows:
    """The authors' JSON lines as the hub's rows. A gold label of "-" is no agreed one."""
    labels = {name: index for index, name in enumerate(SNLI_LABELS)}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                label = labels.get(row["gold_label"], -1)
                yield {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": label}
            except (ValueError, KeyError, TypeError) as error:
                what = f"is no line of SNLI: {type(error).__name__} {error}"
                raise ConfigError([Problem(str(file), number, "data.path", what, "get the file again")]) from error


WIKITEXT2 = HubText(
    HubTable("wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1", "CC-BY-SA-3.0 and GFDL", frozenset({"text"})),
    articles,
    (("wiki.train.raw", "wiki.valid.raw"), ("wiki.train.tokens", "wiki.valid.tokens")),
    _lines,
)
SNLI = HubText(
    HubTable("snli", "stanfordnlp/snli", "plain_text", "CC-BY-SA-4.0", frozenset({"premise", "hypothesis", "label"})),
    pairs,
    (("snli_1.0_train.jsonl", "snli_1.0_dev.jsonl"),),
    _annotations,
)


def load_wikitext2(data: DataSpec) -> Corpus:
    """WikiText-2, raw: 2 M words of good and featured Wikipedia articles (Merity et al. 2016)."""
    return load(WIKITEXT2, data)


def load_snli(data: DataSpec) -> Corpus:
    """SNLI: half a million pairs of sentences with their relation (Bowman et al. 2015)."""
    return load(SNLI, data)


def load(wanted: HubText, data: DataSpec, cache: Path | None = None) -> Corpus:
    """The dataset from the first place that has it (tables.find). ConfigError when none has."""
    table = wanted.table
    files = authors_files(wanted, Path(data.path).expanduser()) if data.path else None
    if files is not None:
        train, validation = (wanted.documents(wanted.rows(file)) for file in files)
        return Corpus(table.name, f"{files[0].name} and {files[1].name} in {files[0].parent.resolve()}", table.licence,
                      train, validation)  # fmt: skip
    found = find(table, data, cache)
    if found is None:
        raise problem(f"{table.name} is nowhere to be had", "give a local copy with --override data.path=FOLDER")
    return Corpus(
        table.name,
        table.told(found.where),
        table.licence,
        wanted.documents(found.train),
        wanted.documents(found.validation),
    )


def authors_files(wanted: HubText, folder: Path) -> tuple[Path, Path] | None:
    """The authors' own files of both splits, somewhere below a folder; None when they are not there."""
    for names in wanted.files:
        train, validation = (next(iter(sorted(folder.rglob(name))), None) for name in names)
        if train is not None and validation is not None:
            return train, validation
    return None
