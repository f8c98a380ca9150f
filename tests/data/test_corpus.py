import numpy as np
import pytest

from smolcluster.data.corpus import Corpus, pieces
from smolcluster.data.staged import stage


@pytest.fixture
def staged(tmp_path):
    def make(*documents, validation=()):
        return stage(Corpus("text", "test", "none", documents, tuple(validation)), tmp_path / "text")

    return make


def splits(laid):
    return tuple(tuple("".join(blocks) for blocks in laid.read(part)) for part in laid.splits())


def test_documents_go_to_one_side_whole(staged):
    documents = tuple(f"document {i} " * (5 + i % 7) for i in range(200))
    train, validation = splits(staged(*documents))
    assert sorted(train + validation) == sorted(documents)
    assert not set(train) & set(validation)
    share = sum(map(len, validation)) / sum(map(len, documents))
    assert 0.09 < share <= 0.1


def test_equal_documents_go_the_same_way(staged):
    train, validation = splits(staged(*(f"document {i % 40}" for i in range(200))))
    assert len(train) + len(validation) == 200
    assert not set(train) & set(validation)
    assert len(validation) == 20


def test_where_others_stand_does_not_change_a_documents_side(staged):
    documents = tuple(f"document {i:03}" for i in range(100))
    assert set(splits(staged(*documents))[1]) == set(splits(staged(*documents[::-1]))[1])


@pytest.mark.parametrize("line", ["This is line {} of the book.\n", "Zeile {} ändert 🦙 nichts daran.\n"])
def test_the_end_of_a_book_is_kept_at_a_lines_end(staged, line):
    book = "".join(line.format(i) for i in range(9000))
    train, validation = splits(staged(iter([book[:100_001], book[100_001:]])))
    assert train[0] + validation[0] == book
    assert train[0].endswith("\n")
    assert len(validation[0]) / len(book) == pytest.approx(0.1, abs=0.001)


def test_a_few_texts_are_cut_by_position_over_all(staged):
    train, validation = splits(staged("a " * 400, "b " * 400, "c " * 200))
    assert "".join(train + validation) == "a " * 400 + "b " * 400 + "c " * 200
    assert validation == ("c " * (len(validation[0]) // 2),)
    assert len(validation[0]) == pytest.approx(200, abs=2) or len(validation[0]) == pytest.approx(100, abs=2)


def test_a_cut_between_two_texts_cuts_none(staged):
    assert splits(staged("a" * 450, "b" * 450, "c" * 100)) == (("a" * 450, "b" * 450), ("c" * 100,))


def test_huge_documents_among_tiny_ones_still_leave_something_to_validate_on(staged):
    documents = ("word " * 100_000, *(f"note {i}" for i in range(20)))
    train, validation = splits(staged(*documents))
    assert "".join(train + validation) == "".join(documents)
    assert sum(map(len, validation)) > 0.09 * sum(map(len, documents))


def test_a_split_of_the_source_is_kept(staged):
    assert splits(staged("a", "", "b", validation=["c"])) == (("a", "b"), ("c",))


def test_the_hash_tells_documents_and_splits_apart(staged):
    hashes = {
        laid.sha256() for laid in (staged("ab", "c"), staged("a", "bc"), staged("abc"), staged("ab", validation=["c"]))
    }
    assert len(hashes) == 4
    assert staged(iter(["a", "b"]), "c").sha256() == staged("ab", "c").sha256(), "where parts meet is nobody's business"


def test_ranges_may_be_read_in_any_order(staged):
    laid = staged(*(f"text {i} é" * 9 for i in range(12)))
    train, validation = laid.splits()
    mixed = np.concatenate([train, validation])[::-1]
    read = sorted("".join(blocks) for blocks in laid.read(mixed))
    assert read == sorted(f"text {i} é" * 9 for i in range(12))


@pytest.mark.parametrize("text", ["", "short", "line\n" * 100, "x" * 1000, "long " * 30 + "\n" + "y" * 333])
@pytest.mark.parametrize("part", [7, 60, 5000])
def test_pieces_are_the_text(text, part):
    cut = list(pieces((text[i : i + part] for i in range(0, len(text), part)), 50))
    assert "".join(piece for piece, _ in cut) == text
    assert [last for _, last in cut].count(True) == bool(text)
    assert not text or cut[-1][1]
    assert all(0 < len(piece) <= 200 for piece, _ in cut)
    assert all(piece.endswith("\n") for piece, last in cut if not last and "\n" in piece)
    assert cut == list(pieces([text], 50)), "where parts meet changes nothing"
