import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from smolcluster.data import TokenFolder, prepare_data
from smolcluster.data.building import BUILDING
from smolcluster.data.corpus import Corpus
from smolcluster.data.prepare import prepare_corpus
from smolcluster.errors import ConfigError
from smolcluster.spec.run import NNSpec, Participant

WORDS = "the quick brown fox jumps over the lazy dog and 🦙 naps; 12 plus 30 is 42.\n"


def corpus(documents=20, lines=40):
    return Corpus("text", "a test", "none", tuple(f"Document {i}\n" + WORDS * lines for i in range(documents)))


def tokens_of(folder, name):
    return np.fromfile(folder / name, "<u2").tolist()


def test_the_text_comes_back_whole_with_an_end_after_each_document(tmp_path):
    given = corpus()
    folder = prepare_corpus(given, "bpe:400", 16, tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = []
    for name in ("train.bin", "val.bin"):
        text = tokenizer.decode(tokens_of(folder, name), skip_special_tokens=False)
        assert text.endswith("<|endoftext|>")
        texts += text.split("<|endoftext|>")[:-1]
    assert sorted(texts) == sorted(given.train)
    assert len(texts[-1]) > 0


def test_meta_tells_what_is_there(tmp_path):
    folder = prepare_corpus(corpus(), "bpe:400", 16, tmp_path)
    data = TokenFolder.open(folder)
    meta = data.meta
    assert (meta.schema_, meta.seq_len, meta.dtype, meta.eos) == (1, 16, "uint16", 0)
    assert json.loads((folder / "meta.json").read_text())["schema"] == 1
    assert meta.vocab_size == Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() <= 400
    assert meta.train_tokens == len(tokens_of(folder, "train.bin"))
    assert meta.train_samples == (meta.train_tokens - 1) // 16
    assert meta.val_samples == (meta.val_tokens - 1) // 16
    assert meta.val_tokens == pytest.approx(0.1 * (meta.train_tokens + meta.val_tokens), rel=0.1)
    data.verify()
    assert sorted(file.name for file in folder.iterdir()) == ["meta.json", "tokenizer.json", "train.bin", "val.bin"]


def test_samples_are_neighbours_shifted_by_one_and_do_not_overlap(tmp_path):
    folder = prepare_corpus(corpus(), "bpe:400", 16, tmp_path)
    data, stream = TokenFolder.open(folder), tokens_of(folder, "train.bin")
    last = data.sample_count("train") - 1
    x, y = data.batch("train", [0, 1, last])
    assert str(x.dtype) == str(y.dtype) == "torch.int64"
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert x.flatten()[:32].tolist() == stream[:32]
    assert y.flatten()[:32].tolist() == stream[1:33]
    assert y[2].tolist() == stream[last * 16 + 1 : last * 16 + 17]
    for wrong in (-1, last + 1):
        with pytest.raises(IndexError, match=f"train has samples 0 to {last}"):
            data.batch("train", [wrong])


def test_a_second_call_does_nothing(tmp_path, make_run):
    lines = []
    folder = prepare_data(make_run(), tmp_path, lines.append)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert prepare_data(make_run(), tmp_path, lines.append) == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert "licence: PSF-2.0" in lines[0]
    assert "pydoc_data.topics of CPython" in lines[0]
    assert "tokens to train on" in lines[1]
    assert "already prepared" in lines[3]
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


def test_text_tokenizer_and_length_each_make_another_folder(tmp_path):
    folders = {
        prepare_corpus(corpus(), "bpe:400", 16, tmp_path),
        prepare_corpus(corpus(lines=41), "bpe:400", 16, tmp_path),
        prepare_corpus(corpus(), "bpe:401", 16, tmp_path),
        prepare_corpus(corpus(), "bpe:400", 17, tmp_path),
    }
    assert len(folders) == 4


def test_the_content_and_not_the_name_of_a_tokenizer_counts(tmp_path):
    first = prepare_corpus(corpus(), "bpe:400", 16, tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_bytes((first / "tokenizer.json").read_bytes())
    one = prepare_corpus(corpus(), str(tmp_path / "one"), 16, tmp_path)
    assert prepare_corpus(corpus(), str(tmp_path / "two"), 16, tmp_path) == one
    assert tokens_of(one, "train.bin") == tokens_of(first, "train.bin")
    assert one != first


def test_another_process_makes_the_same_bytes(tmp_path, make_run):
    """Training the BPE counts in hash maps and threads: neither may decide anything."""
    here = prepare_data(make_run(tokenizer="bpe:2048"), tmp_path / "here")
    run = make_run(tokenizer="bpe:2048").model_dump_json()
    code = (
        "import pathlib, sys; from smolcluster.data import prepare_data; from smolcluster.spec.run import RunSpec\n"
        "print(prepare_data(RunSpec.model_validate_json(sys.argv[1]), pathlib.Path(sys.argv[2])))\n"
        "assert 'torch' not in sys.modules, 'preparing data needs no torch'"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "3"}
    command = [sys.executable, "-c", code, run, str(tmp_path / "there")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    there = tmp_path / "there" / here.name
    assert done.stdout.strip() == str(there)
    for file in here.iterdir():
        assert file.read_bytes() == (there / file.name).read_bytes(), file.name


def test_callers_at_once_all_get_a_whole_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        calls = [pool.apply_async(prepare_corpus, (corpus(), "bpe:400", 16, tmp_path)) for _ in range(6)]
        folders = {call.get(timeout=60) for call in calls}
        pool.close()
        pool.join()
    assert len(folders) == 1
    TokenFolder.open(folders.pop()).verify()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_folder_is_refused_and_made_again(tmp_path):
    folder = prepare_corpus(corpus(), "bpe:400", 16, tmp_path)
    whole = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(whole[:-2])
    with pytest.raises(ConfigError, match=f"train.bin has {len(whole) - 2} bytes, {len(whole)} were expected"):
        TokenFolder.open(folder)
    assert prepare_corpus(corpus(), "bpe:400", 16, tmp_path) == folder
    assert (folder / "train.bin").read_bytes() == whole

    (folder / "train.bin").write_bytes(bytes(len(whole)))
    with pytest.raises(ConfigError, match=r"train\.bin is not what was prepared"):
        TokenFolder.open(folder).verify()
    (folder / "val.bin").unlink()
    with pytest.raises(ConfigError, match=r"val\.bin is missing"):
        TokenFolder.open(folder)


def test_other_folders_and_schemas_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a data folder(.|\n)*fix: delete that folder and run"):
        TokenFolder.open(tmp_path)
    (tmp_path / "meta.json").write_text('{"schema": 99}')
    with pytest.raises(ConfigError, match="has schema 99, this smolcluster reads 1"):
        TokenFolder.open(tmp_path)
    (tmp_path / "meta.json").write_text('{"schema": 1}')
    with pytest.raises(ConfigError, match=r"meta\.json is not valid"):
        TokenFolder.open(tmp_path)


def test_a_failure_leaves_nothing_and_what_was_abandoned_goes(tmp_path):
    old, young = tmp_path / f"{BUILDING}old", tmp_path / f"{BUILDING}young"
    old.mkdir()
    young.mkdir()
    long_ago = time.time() - 200_000
    os.utime(old, (long_ago, long_ago))
    with pytest.raises(ConfigError, match="too small"):
        prepare_corpus(Corpus("text", "note.txt", "none", ("hello there\n",)), "bpe:400", 16, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [young.name]


def test_a_text_smaller_than_a_step_says_how_small_and_what_helps(tmp_path, make_run):
    path = tmp_path / "book.txt"
    path.write_text(WORDS * 20)
    run = make_run("text", path, training={"batch_size": 200, "epochs": 1, "learning_rate": 1})
    with pytest.raises(ConfigError) as caught:
        prepare_data(run, tmp_path / "cache")
    message = str(caught.value)
    assert "one step of all ranks takes 600, and validation at least 1" in message
    assert "--override training.batch_size=1" in message
    assert str(path) in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_step_is_the_plans_where_it_is_known(tmp_path, make_run):
    with pytest.raises(ConfigError, match="takes 1000000"):
        prepare_data(make_run(), tmp_path, global_batch=1_000_000)
    # Prepared for a small step before, and found again for a large one.
    prepare_data(make_run(), tmp_path)
    with pytest.raises(ConfigError, match="takes 1000000"):
        prepare_data(make_run(), tmp_path, global_batch=1_000_000)
    server = (Participant(node="s", role="server", port=0), Participant(node="w", port=0, batch_size=900_000))
    with pytest.raises(ConfigError, match="takes 900000"):
        prepare_data(make_run(participants=server), tmp_path)


@pytest.fixture
def words_tokenizer(tmp_path):
    """w1 is token 1, up to more than two bytes hold; no end token."""
    words = {"[UNK]": 0} | {f"w{i}": i for i in range(1, 70_000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "words.json"))
    return str(tmp_path / "words.json")


def test_large_vocabularies_take_four_bytes(tmp_path, words_tokenizer):
    text = Corpus("text", "words", "none", (" ".join(f"w{i}" for i in range(69_000, 69_500)),))
    data = TokenFolder.open(prepare_corpus(text, words_tokenizer, 16, tmp_path / "cache"))
    assert (data.meta.dtype, data.meta.eos) == ("uint32", None)
    assert data.batch("train", [0])[0][0].tolist() == list(range(69_000, 69_016))


@pytest.mark.parametrize(("tokens", "samples"), [(17, 1), (32, 1), (33, 2)])
def test_the_last_sample_needs_the_token_after_it(tmp_path, words_tokenizer, tokens, samples):
    text = " ".join(f"w{i}" for i in range(1, tokens + 1))
    folder = prepare_corpus(Corpus("text", "words", "none", (text,), (text,)), words_tokenizer, 16, tmp_path / "cache")
    data = TokenFolder.open(folder)
    assert data.sample_count("train") == data.sample_count("val") == samples
    assert data.batch("train", [samples - 1])[1][0].tolist() == list(range(samples * 16 - 14, samples * 16 + 2))


def test_the_folder_appears_by_one_rename(tmp_path, monkeypatch):
    def fails(self, target):
        assert (self / "meta.json").is_file()
        raise OSError("no rename today")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no rename today"):
        prepare_corpus(corpus(), "bpe:400", 16, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_long_document_is_cut_where_nothing_is_lost(tmp_path, monkeypatch):
    """Pieces bound the memory; a text without any line's end is cut too."""
    monkeypatch.setattr("smolcluster.data.tokenise.PIECE_CHARACTERS", 100)
    monkeypatch.setattr("smolcluster.data.tokenise.CALL_PIECES", 3)
    text = WORDS * 60 + "no end of line " * 300
    folder = prepare_corpus(Corpus("text", "one", "none", (text,)), "bpe:300", 8, tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    train, val = (tokens_of(folder, name) for name in ("train.bin", "val.bin"))
    assert train.count(0) == val.count(0) == 1
    assert tokenizer.decode(train) + tokenizer.decode(val) == text


def test_only_gpt_trains_on_text(tmp_path, make_run):
    with pytest.raises(ConfigError, match="pydoc is text: an nn model is trained on pictures"):
        prepare_data(make_run(model=NNSpec(input_dim=4, hidden=4, out=2)), tmp_path)


def test_hashes_are_of_the_files(tmp_path):
    folder = prepare_corpus(corpus(), "bpe:400", 16, tmp_path)
    for name, wanted in TokenFolder.open(folder).meta.sha256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == wanted
