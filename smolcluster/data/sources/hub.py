"""`wikitext2` and `snli`: datasets of the Hugging Face hub, by the `datasets` library.

Looked for in this order, and never replaced by something else:

    1. data.path               a folder of the person's: `save_to_disk`, or Parquet / Arrow files named by split
    2. the local cache         what `datasets.load_dataset` left on this machine
    3. the hub                 over the network
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolcluster.data.corpus import Corpus
from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.run import DataSpec

if TYPE_CHECKING:
    from datasets import Dataset

Rows = Iterable[Mapping[str, Any]]
SPLITS = ("train", "validation")
SNLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class HubDataset:
    """One dataset of the hub: its repository and configuration, its columns, and how rows become documents."""

    name: str
    repo: str
    config: str
    licence: str
    columns: frozenset[str]
    documents: Callable[[Rows], tuple[str, ...]]


def articles(rows: Rows) -> tuple[str, ...]:
    """WikiText's rows are lines; an article begins with a line ` = Title = `. A document per article."""
    lines: list[str] = []
    documents: list[str] = []
    for row in rows:
        line = str(row["text"])
        title = line.startswith(" = ") and not line.startswith(" = = ")
        if title and any(part.strip() for part in lines):
            documents.append("".join(lines))
            lines = []
        lines.append(line if line.endswith("\n") or not line else line + "\n")
    documents.append("".join(lines))
    return tuple(document for document in documents if document.strip())


def pairs(rows: Rows) -> tuple[str, ...]:
    """SNLI's rows as three lines: premise, hypothesis, label. Rows without an agreed label (-1) are left out."""
    return tuple(
        f"{row['premise']}\n{row['hypothesis']}\n{SNLI_LABELS[label]}\n"
        for row in rows
        if 0 <= (label := int(row["label"])) < len(SNLI_LABELS)
    )


WIKITEXT2 = HubDataset(
    "wikitext2",
    "Salesforce/wikitext",
    "wikitext-2-raw-v1",
    "CC-BY-SA-3.0 and GFDL",
    frozenset({"text"}),
    articles,
)
SNLI = HubDataset(
    "snli",
    "stanfordnlp/snli",
    "plain_text",
    "CC-BY-SA-4.0",
    frozenset({"premise", "hypothesis", "label"}),
    pairs,
)


def load_wikitext2(data: DataSpec) -> Corpus:
    """WikiText-2, raw: 2 M words of good and featured Wikipedia articles (Merity et al. 2016)."""
    return load(WIKITEXT2, data)


def load_snli(data: DataSpec) -> Corpus:
    """SNLI: half a million pairs of sentences with their relation (Bowman et al. 2015)."""
    return load(SNLI, data)


def load(wanted: HubDataset, data: DataSpec, cache: Path | None = None) -> Corpus:
    """The dataset from the first place that has it. `cache` is the datasets cache, None for the library's own.

    ConfigError when no place has it, or what is there is another dataset.
    """
    try:
        import datasets
    except ImportError:
        what = f"{wanted.name} needs the package datasets, which is not installed"
        raise _problem(what, 'pip install "smolcluster[hf]", or -e dataset=pydoc, which needs nothing') from None
    cache = cache if cache is not None else Path(datasets.config.HF_DATASETS_CACHE)
    if data.path:
        splits, where = from_folder(Path(data.path).expanduser()), f"the folder {Path(data.path).resolve()}"
    else:
        found = from_cache(wanted, cache)
        splits, where = (found, "the local cache") if found else (from_hub(wanted, cache), "the hub")
    for split, rows in splits.items():
        absent = wanted.columns - set(rows.column_names)
        if absent:
            what = f"{where} is not {wanted.name}: its {split} split has no column {', '.join(sorted(absent))}"
            raise _problem(what, f"give a folder made from {wanted.repo} with datasets' save_to_disk")
    train, validation = (wanted.documents(splits[split]) for split in SPLITS)
    return Corpus(wanted.name, f"{wanted.repo} ({wanted.config}) from {where}", wanted.licence, train, validation)


def from_folder(folder: Path) -> dict[str, Dataset]:
    """The splits in a folder of the person's. ConfigError when there are none."""
    import datasets

    if (folder / "dataset_dict.json").is_file():
        loaded = datasets.load_from_disk(str(folder))
        if set(SPLITS) <= set(loaded):
            return {split: loaded[split] for split in SPLITS}
    for kind, read in (("arrow", datasets.Dataset.from_file), ("parquet", None)):
        files = {split: sorted(map(str, folder.rglob(f"*{split}*.{kind}"))) for split in SPLITS}
        if not all(files.values()):
            continue
        if read is not None:
            return {s: datasets.concatenate_datasets([read(file) for file in files[s]]) for s in SPLITS}
        return {s: datasets.Dataset.from_parquet(files[s], keep_in_memory=True) for s in SPLITS}
    what = (
        "no dataset in here: neither save_to_disk's dataset_dict.json nor *train* and *validation* .arrow or .parquet"
    )
    raise ConfigError([Problem(str(folder), 0, "data.path", what, "give the folder that has both splits")])


def from_cache(wanted: HubDataset, cache: Path) -> dict[str, Dataset] | None:
    """The splits as load_dataset left them: <cache>/<owner>___<name>/<config>/<version>/<hash>/<name>-<split>.arrow."""
    import datasets

    root = cache / wanted.repo.replace("/", "___") / wanted.config
    stem = wanted.repo.rpartition("/")[2]
    # Where dataset_info.json is missing a download broke off: it is written last.
    for folder in sorted((info.parent for info in root.glob("*/*/dataset_info.json")), reverse=True):
        files = {s: sorted({*folder.glob(f"{stem}-{s}.arrow"), *folder.glob(f"{stem}-{s}-*.arrow")}) for s in SPLITS}
        if all(files.values()):
            return {
                s: datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files[s]])
                for s in SPLITS
            }
    return None


def from_hub(wanted: HubDataset, cache: Path) -> dict[str, Dataset]:
    """The splits over the network. ConfigError when the hub is out of reach."""
    import datasets

    try:
        Hub().files(wanted.repo, "dataset")  # fails at once where load_dataset would try for a minute
        loaded = datasets.load_dataset(wanted.repo, wanted.config, cache_dir=str(cache))
    except (HubUnavailable, OSError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        what = f"{wanted.repo} is not in the local cache ({cache}), and {lines[0][:200]}"
        fix = (
            f"connect to the network; or name a local copy: --override data.dataset={wanted.name} "
            "--override data.path=FOLDER; or take a text that is at hand: -e dataset=pydoc"
        )
        raise _problem(what, fix) from error
    return {split: loaded[split] for split in SPLITS}


def _problem(what: str, fix: str) -> ConfigError:
    return ConfigError([Problem("", 0, "data.dataset", what, fix)])
