"""WikiText-2 and SNLI in every layout a local copy may have give the same text. All rows are synthetic."""

import json

import datasets
import pytest

from smolcluster.data.corpus import parts_of
from smolcluster.data.sources import hub, load_corpus, tables
from smolcluster.errors import ConfigError
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve
from smolcluster.spec.run import DataSpec

LINES = ["", " = Iron = \n", "", " Fe . \n", " = = Use = = \n", " Rails . \n", "", " = Tin = \n", " Sn . \n"]
PAIRS = [("A man eats.", "Somebody eats.", 0), ("It rains.", "It snows.", -1), ("A dog runs.", "A cat runs.", 2)]
LABELS = {0: "entailment", 1: "neutral", 2: "contradiction", -1: "-"}
DATA = {
    "wikitext2": {"text": LINES},
    "snli": dict(zip(("premise", "hypothesis", "label"), map(list, zip(*PAIRS, strict=True)), strict=True)),
}
TEXTS = {
    "wikitext2": (" = Iron = \n Fe . \n = = Use = = \n Rails . \n", " = Tin = \n Sn . \n"),
    "snli": ("A man eats.\nSomebody eats.\nentailment\n", "A dog runs.\nA cat runs.\ncontradiction\n"),
}


def lay_out(folder, name, layout):
    folder.mkdir()
    rows = datasets.Dataset.from_dict(DATA[name])
    if layout == "save_to_disk":
        datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(folder)
    elif layout == "authors" and name == "wikitext2":
        for split in ("train", "valid"):
            (folder / f"wiki.{split}.raw").write_text("".join(line or " \n" for line in LINES))
    elif layout == "authors":
        said = [{"sentence1": a, "sentence2": b, "gold_label": LABELS[label]} for a, b, label in PAIRS]
        for split in ("train", "dev"):
            (folder / f"snli_1.0_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    else:
        for split in ("train", "validation"):
            if layout == "parquet":
                for number, part in enumerate((rows.select(range(2)), rows.select(range(2, len(rows))))):
                    part.to_parquet(folder / f"{split}-{number:05}-of-00002.parquet")
            else:
                rows.flatten_indices().map(lambda row: row, cache_file_name=str(folder / f"x-{split}.arrow"))
    return folder


@pytest.mark.parametrize("name", ["wikitext2", "snli"])
@pytest.mark.parametrize("layout", ["save_to_disk", "parquet", "arrow", "authors"])
def test_every_layout_gives_the_same_text(tmp_path, name, layout):
    folder = lay_out(tmp_path / "copy", name, layout)
    spec = resolve(Request(_local(), "single", dataset=name, overrides=(f"data.path={folder}",))).run.data
    assert (spec.dataset, spec.path) == (name, str(folder)), "a copy is told from a text of one's own"
    corpus = load_corpus(spec)
    assert tuple("".join(parts_of(document)) for document in corpus.train) == TEXTS[name]
    assert tuple("".join(parts_of(document)) for document in corpus.validation) == TEXTS[name]
    assert str(folder.resolve()) in corpus.source


def _local():
    from pathlib import Path

    return Path(__file__).parents[2] / "inventory" / "local.smol.yml"


def test_parquet_is_read_as_it_comes(tmp_path):
    folder = lay_out(tmp_path / "copy", "snli", "parquet")
    rows = tables.from_folder(hub.SNLI.table, folder)["train"]
    assert isinstance(rows, datasets.IterableDataset)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_may_be_read_without_a_copy_on_the_disk(tmp_path, monkeypatch, streaming):
    asked = []

    def load_dataset(repo, config, cache_dir, streaming):
        asked.append((repo, config, streaming))
        rows = datasets.Dataset.from_dict(DATA["wikitext2"])
        return {split: rows.to_iterable_dataset() if streaming else rows for split in ("train", "validation", "test")}

    monkeypatch.setattr(tables.Hub, "files", lambda self, repo, kind: frozenset())
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = hub.load(hub.WIKITEXT2, DataSpec(dataset="wikitext2", tokenizer="-", streaming=streaming), cache=tmp_path)
    assert tuple(corpus.train) == TEXTS["wikitext2"]
    assert corpus.source.endswith("from the hub")
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", streaming)]


def test_a_line_that_is_none_of_snli_is_named(tmp_path):
    folder = lay_out(tmp_path / "copy", "snli", "authors")
    (folder / "snli_1.0_train.jsonl").write_text('{"sentence1": "a"}\n')
    corpus = load_corpus(DataSpec(dataset="snli", path=str(folder), tokenizer="-"))
    with pytest.raises(ConfigError, match=r"snli_1\.0_train\.jsonl:1: data\.path: is no line of SNLI"):
        list(corpus.train)
