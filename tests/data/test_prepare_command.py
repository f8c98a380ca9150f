import json
from pathlib import Path

import pytest

from smolcluster.cli import main
from smolcluster.data import TokenFolder

REPO = Path(__file__).parents[2]


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """`prepare` on the local inventory: (exit code, stdout, stderr)."""
    monkeypatch.chdir(REPO)

    def call(*flags):
        code = main(["prepare", "--cache", str(tmp_path / "cache"), *flags])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_last_line_names_a_whole_data_folder(prepare):
    code, out, err = prepare()
    assert code == 0
    folder = Path(json.loads(out.splitlines()[-1])["data_dir"])
    assert folder.is_absolute()
    data = TokenFolder.open(folder)
    data.verify()
    assert (data.meta.dataset, data.meta.vocab_size, data.meta.seq_len) == ("pydoc", 2048, 128)
    assert "pydoc_data.topics of CPython" in err
    assert "licence: PSF-2.0" in err
    assert prepare() == (0, out, err.splitlines()[0] + f"\ndata: already prepared in {folder}\n")


def test_a_text_of_ones_own(prepare, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"Line {i} of a book that somebody wrote, {i * i} words on.\n" for i in range(2000)))
    code, out, _ = prepare("--dataset", str(book), "--override", "model.max_seq_len=64")
    assert code == 0
    meta = TokenFolder.open(Path(json.loads(out)["data_dir"])).meta
    assert (meta.source, meta.seq_len) == (str(book.resolve()), 64)


def test_a_text_too_small_for_the_plans_step_exits_2_and_prints_no_folder(prepare, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("It was a dark and stormy night.\n" * 30)
    code, out, err = prepare("--dataset", str(book), "--override", "training.batch_size=100")
    assert (code, out) == (2, "")
    assert "the text is too small" in err
    assert "one step of all ranks takes 300" in err
