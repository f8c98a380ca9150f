import os
import pydoc_data.topics

import datasets
import pytest

from smolcluster.data.corpus import parts_of
from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.data.sources import hub, load_corpus, pydoc, tables, wiki_sample
from smolcluster.data.staged import stage
from smolcluster.errors import ConfigError
from smolcluster.spec.run import DataSpec

LINES = [
    "",
    " = Valkyria = \n",
    "",
    " First line . \n",
    " = = Part = = \n",
    " Second . \n",
    "",
    " = Gold = \n",
    " Au . \n",
]
PAIRS = {
    "premise": ["A man eats.", "A dog runs.", "It rains."],
    "hypothesis": ["Somebody eats.", "A cat runs.", "It snows."],
    "label": [0, 2, -1],
}


def spec(dataset, path=None):
    return DataSpec(dataset=dataset, path=None if path is None else str(path), tokenizer="bpe:300")


def texts(documents):
    return tuple("".join(parts_of(document)) for document in documents)


def message_of(dataset, path=None):
    with pytest.raises(ConfigError) as caught:
        load_corpus(spec(dataset, path))
    assert "fix:" in str(caught.value)
    return str(caught.value)


# --- pydoc


def test_pydoc_is_the_interpreters_own_text():
    corpus = load_corpus(spec("pydoc"))
    assert corpus.licence == "PSF-2.0"
    assert len(corpus.train) > 60
    assert 200_000 < sum(map(len, corpus.train)) <= sum(map(len, pydoc_data.topics.topics.values()))
    assert any("Assert statements are a convenient way" in document for document in corpus.train)


def test_no_paragraph_of_pydoc_is_in_both_splits(tmp_path):
    def paragraphs(documents):
        return {" ".join(part.split()) for document in documents for part in document.split("\n\n")} - {""}

    staged = stage(load_corpus(spec("pydoc")), tmp_path / "text")
    train, validation = (["".join(blocks) for blocks in staged.read(part)] for part in staged.splits())
    assert len(paragraphs(validation)) > 50
    assert not paragraphs(train) & paragraphs(validation)


def test_a_repeated_paragraph_stays_where_it_came_first():
    topics = {"b": "Shared  part\nhere.\n\nOnly b.\n", "a": "Only a.\n\nShared part here.", "c": "Only a."}
    assert pydoc.without_repeats(topics) == ("Only a.\n\nShared part here.\n", "Only b.\n")


# --- a person's own text


def test_a_file_of_any_name_is_a_text(tmp_path):
    book = tmp_path / "book"
    book.write_bytes("\ufeffOne line\r\nand ånother\r".encode())
    corpus = load_corpus(spec("text", book))
    assert texts(corpus.train) == ("One line\nand ånother\n",)
    assert corpus.source == str(book.resolve())


def test_a_folder_is_all_its_texts_in_order(tmp_path):
    for name, text in {"b.txt": "bee", "a.md": "ay", "sub/c.TXT": "sea", "x.png": "no", ".git/d.txt": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    corpus = load_corpus(spec("text", tmp_path))
    assert texts(corpus.train) == ("ay", "bee", "sea")
    assert corpus.source == f"{tmp_path.resolve()}, 3 files"


def test_every_text_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "good.txt").write_text("fine")
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes("nämlich".encode("latin-1"))
    (tmp_path / "wide.txt").write_bytes("nämlich".encode("utf-16"))
    message = message_of("text", tmp_path)
    assert "3 problems" in message
    assert "empty.txt: data.path: is empty" in message
    assert "latin.txt: data.path: is not UTF-8 text: byte 0xe4 at position 1" in message
    assert "iconv -f WINDOWS-1252 -t UTF-8 latin.txt > latin-utf8.txt" in message
    assert "iconv -f UTF-16 -t UTF-8 wide.txt" in message


def test_missing_texts_are_named(tmp_path):
    assert "book.txt: data.path: there is no such file or folder" in message_of("text", tmp_path / "book.txt")
    assert "no text file in this folder (looked for .txt, .text, .md, .rst" in message_of("text", tmp_path)
    assert "no path is given" in message_of("text")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_text_without_permission_is_named(tmp_path):
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "secret.txt").chmod(0)
    assert "secret.txt: data.path: cannot be read: Permission denied" in message_of("text", tmp_path)


def test_unknown_names_say_what_there_is():
    assert "did you mean wikitext2? Choose one of pydoc, wikitext2, snli" in message_of("wikitext")
    assert "mnist is images" in message_of("mnist")


@pytest.mark.parametrize("name", ["wiki-sample", "wiki_sample", "WikiSample"])
def test_names_may_be_written_with_or_without_hyphens(monkeypatch, name):
    monkeypatch.setattr(wiki_sample.importlib.util, "find_spec", lambda package: None)
    assert "wiki-sample: the package gensim, which carries it, is not installed" in message_of(name)


def test_the_wiki_sample_is_articles_without_markup():
    pytest.importorskip("gensim")
    corpus = load_corpus(spec("wiki-sample"))
    assert corpus.licence == "CC-BY-SA-3.0"
    assert len(corpus.train) == 106
    assert any(document.startswith("Anarchism\n\n") for document in corpus.train)
    assert not any("redirect" in document[:60].lower() for document in corpus.train)
    assert not any("'''" in document for document in corpus.train)
    assert sum(document.count("[[") for document in corpus.train) < 100


# --- datasets of the hub, from local copies


@pytest.fixture
def wikitext():
    rows = datasets.Dataset.from_dict({"text": LINES})
    return datasets.DatasetDict({"train": rows, "validation": rows.select(range(7, 9)), "test": rows.select([0])})


ARTICLES = (" = Valkyria = \n First line . \n = = Part = = \n Second . \n", " = Gold = \n Au . \n")


def test_wikitext_saved_to_disk(tmp_path, wikitext):
    wikitext.save_to_disk(tmp_path / "wiki")
    corpus = load_corpus(spec("wikitext2", tmp_path / "wiki"))
    assert texts(corpus.train) == ARTICLES
    assert texts(corpus.validation) == (ARTICLES[1],)
    assert corpus.source == f"Salesforce/wikitext (wikitext-2-raw-v1) from the folder {(tmp_path / 'wiki').resolve()}"
    assert corpus.licence == "CC-BY-SA-3.0 and GFDL"


def test_wikitext_as_parquet(tmp_path, wikitext):
    folder = tmp_path / "wikitext-2-raw-v1"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        wikitext[split].to_parquet(folder / f"{split}-00000-of-00001.parquet")
    assert texts(load_corpus(spec("wikitext2", tmp_path)).train) == ARTICLES


def test_wikitext_from_the_cache_of_datasets(tmp_path, wikitext):
    folder = tmp_path / "Salesforce___wikitext" / "wikitext-2-raw-v1" / "0.0.0" / "b08601e04326c79d"
    folder.mkdir(parents=True)
    half = len(LINES) // 2
    for number, rows in enumerate((range(half), range(half, len(LINES)))):
        part = (
            wikitext["train"]
            .select(rows)
            .flatten_indices(cache_file_name=str(folder / f"wikitext-train-{number:05}-of-00002.arrow"))
        )
        assert len(part) == len(rows)
    wikitext["validation"].flatten_indices(cache_file_name=str(folder / "wikitext-validation.arrow"))
    assert tables.from_cache(hub.WIKITEXT2.table, tmp_path) is None, "a download that broke off is not taken"
    (folder / "dataset_info.json").write_text("{}")
    corpus = hub.load(hub.WIKITEXT2, spec("wikitext2"), cache=tmp_path)
    assert texts(corpus.train) == ARTICLES
    assert corpus.source.endswith("from the local cache")


def test_snli_is_three_lines_a_pair_and_drops_unlabelled_ones(tmp_path):
    rows = datasets.Dataset.from_dict(PAIRS)
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "snli")
    corpus = load_corpus(spec("snli", tmp_path / "snli"))
    assert texts(corpus.train) == (
        "A man eats.\nSomebody eats.\nentailment\n",
        "A dog runs.\nA cat runs.\ncontradiction\n",
    )
    assert corpus.licence == "CC-BY-SA-4.0"


def test_another_dataset_is_not_taken_for_it(tmp_path, wikitext):
    wikitext.save_to_disk(tmp_path / "wiki")
    message = message_of("snli", tmp_path / "wiki")
    assert "is not snli: its train split has no column hypothesis, label, premise" in message
    (tmp_path / "empty").mkdir()
    assert "no wikitext2 in here" in message_of("wikitext2", tmp_path / "empty")


def test_no_copy_and_no_network_is_an_error_with_the_ways_out(tmp_path, monkeypatch):
    def unreachable(self, repo, kind="model"):
        raise HubUnavailable("the hub cannot be reached (Connection refused)")

    monkeypatch.setattr(Hub, "files", unreachable)
    with pytest.raises(ConfigError) as caught:
        hub.load(hub.WIKITEXT2, spec("wikitext2"), cache=tmp_path)
    message = str(caught.value)
    assert f"Salesforce/wikitext is not in the local cache ({tmp_path}), and the hub cannot be reached" in message
    assert "-e dataset=pydoc" in message


def test_an_unreachable_hub_is_found_out_at_once():
    with pytest.raises(HubUnavailable, match="the hub cannot be reached"):
        Hub(endpoint="http://127.0.0.1:9").files("Salesforce/wikitext", "dataset")
