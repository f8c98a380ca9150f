"""A dataset of the Hugging Face hub as rows, by the `datasets` library, row by row: none is held whole in memory.

Looked for in this order, and never replaced by something else:

    1. data.path               a folder of the person's: `save_to_disk`, or Parquet / Arrow files named by split
    2. the local cache         what `datasets.load_dataset` left on this machine
    3. the hub                 over the network; data.streaming leaves nothing on the disk
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.run import DataSpec

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Table: TypeAlias = "Dataset | IterableDataset"

Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class HubTable:
    """One dataset of the hub: its repository and configuration, its columns, and its training and validation split."""

    name: str
    repo: str
    config: str
    licence: str
    columns: frozenset[str]
    splits: tuple[str, str] = ("train", "validation")

    def told(self, where: str) -> str:
        """What was taken, for meta.json."""
        return f"{self.repo} ({self.config}) from {where}"


@dataclass(frozen=True)
class Found:
    """The rows of both splits, and where they were: "the hub", "the local cache", "the folder ..."."""

    train: Table
    validation: Table
    where: str


def find(wanted: HubTable, data: DataSpec, cache: Path | None = None, hub: bool = True) -> Found | None:
    """The dataset from the first place that has it. `cache` is the datasets cache, None for the library's own.

    ConfigError when no place has it, or what is there is another dataset. None, if only the hub is left and that is
    not to be asked (`hub`).
    """
    try:
        import datasets
    except ImportError:
        if not hub and not data.path:
            return None
        what = f"{wanted.name} needs the package datasets, which is not installed"
        raise problem(what, f'pip install "smolcluster[hf]"{_instead(wanted)}') from None
    cache = cache if cache is not None else Path(datasets.config.HF_DATASETS_CACHE)
    if data.path:
        folder = Path(data.path).expanduser()
        splits, where = from_folder(wanted, folder), f"the folder {folder.resolve()}"
    elif (cached := from_cache(wanted, cache)) is not None:
        splits, where = cached, "the local cache"
    elif hub:
        splits, where = from_hub(wanted, cache, data.streaming), "the hub"
    else:
        return None
    for split, rows in splits.items():
        absent = wanted.columns - _columns(rows)
        if absent:
            what = f"{where} is not {wanted.name}: its {split} split has no column {', '.join(sorted(absent))}"
            raise problem(what, f"give a folder made from {wanted.repo} with datasets' save_to_disk")
    train, validation = (splits[split] for split in wanted.splits)
    return Found(train, validation, where)


def from_folder(wanted: HubTable, folder: Path) -> dict[str, Table]:
    """The splits in a folder of the person's. ConfigError when there are none."""
    import datasets

    if (folder / "dataset_dict.json").is_file():
        loaded = datasets.load_from_disk(str(folder))
        if set(wanted.splits) <= set(loaded):
            return {split: loaded[split] for split in wanted.splits}
    for kind in ("arrow", "parquet"):
        files = {split: sorted(map(str, folder.rglob(f"*{split}*.{kind}"))) for split in wanted.splits}
        if all(files.values()):
            # Arrow is memory-mapped, Parquet read a group of rows at a time.
            read = _arrow if kind == "arrow" else datasets.IterableDataset.from_parquet
            return {split: read(files[split]) for split in wanted.splits}
    names = " and ".join(f"*{split}*" for split in wanted.splits)
    what = f"no {wanted.name} in here: neither save_to_disk's dataset_dict.json nor {names} .arrow or .parquet"
    raise ConfigError([Problem(str(folder), 0, "data.path", what, "give the folder that has both splits")])


def from_cache(wanted: HubTable, cache: Path) -> dict[str, Table] | None:
    """The splits as load_dataset left them: <cache>/<owner>___<name>/<config>/<version>/<hash>/<name>-<split>.arrow."""
    root = cache / wanted.repo.replace("/", "___") / wanted.config
    stem = wanted.repo.rpartition("/")[2]
    # Where dataset_info.json is missing a download broke off: it is written last.
    for folder in sorted((info.parent for info in root.glob("*/*/dataset_info.json")), reverse=True):
        files = {
            split: sorted(map(str, {*folder.glob(f"{stem}-{split}.arrow"), *folder.glob(f"{stem}-{split}-*.arrow")}))
            for split in wanted.splits
        }
        if all(files.values()):
            return {split: _arrow(files[split]) for split in wanted.splits}
    return None


def from_hub(wanted: HubTable, cache: Path, streaming: bool = False) -> dict[str, Table]:
    """The splits over the network. ConfigError when the hub is out of reach."""
    import datasets

    try:
        Hub().files(wanted.repo, "dataset")  # fails at once where load_dataset would try for a minute
        loaded = datasets.load_dataset(wanted.repo, wanted.config, cache_dir=str(cache), streaming=streaming)
    except (HubUnavailable, OSError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        what = f"{wanted.repo} is not in the local cache ({cache}), and {lines[0][:200]}"
        fix = (
            f"connect to the network; or name a local copy: --override data.dataset={wanted.name} "
            f"--override data.path=FOLDER{_instead(wanted)}"
        )
        raise problem(what, fix) from error
    return {split: loaded[split] for split in wanted.splits}


def problem(what: str, fix: str) -> ConfigError:
    """The error for a dataset that cannot be had."""
    return ConfigError([Problem("", 0, "data.dataset", what, fix)])


def _instead(wanted: HubTable) -> str:
    return "" if wanted.name == "mnist" else "; or take a text that is at hand: -e dataset=pydoc"


def _arrow(files: list[str]) -> Dataset:
    import datasets

    return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])


def _columns(rows: Table) -> set[str]:
    """The names of the columns; those of a stream are in its first row."""
    return set(rows.column_names or next(iter(rows), {}))
