import pytest

from smolcluster.data.corpus import Corpus, by_document, by_position, pieces


def corpus(*documents, validation=()):
    return Corpus("text", "test", "none", documents, tuple(validation))


def test_documents_go_to_one_side_whole():
    documents = tuple(f"document {i} " * (5 + i % 7) for i in range(200))
    train, validation = corpus(*documents).splits()
    assert sorted(train + validation) == sorted(documents)
    assert not set(train) & set(validation)
    share = sum(map(len, validation)) / sum(map(len, documents))
    assert 0.09 < share <= 0.1


def test_equal_documents_go_the_same_way():
    documents = tuple(f"document {i % 40}" for i in range(200))
    train, validation = by_document(documents)
    assert len(train) + len(validation) == 200
    assert not set(train) & set(validation)
    assert len(validation) == 20


def test_where_others_stand_does_not_change_a_documents_side():
    documents = tuple(f"document {i:03}" for i in range(100))
    assert set(by_document(documents)[1]) == set(by_document(documents[::-1])[1])


def test_the_end_of_a_book_is_kept_at_a_lines_end():
    book = "".join(f"This is line {i} of the book.\n" for i in range(1000))
    train, validation = corpus(book).splits()
    assert train[0] + validation[0] == book
    assert train[0].endswith("\n")
    assert len(validation[0]) / len(book) == pytest.approx(0.1, abs=0.01)


def test_a_few_texts_are_cut_by_position_over_all():
    train, validation = by_position(("a " * 400, "b " * 400, "c " * 200))
    assert "".join(train + validation) == "a " * 400 + "b " * 400 + "c " * 200
    assert validation == ("c " * (len(validation[0]) // 2),)
    assert len(validation[0]) == pytest.approx(200, abs=2)


def test_huge_documents_among_tiny_ones_still_leave_something_to_validate_on():
    documents = ("word " * 100_000, *(f"note {i}" for i in range(20)))
    train, validation = corpus(*documents).splits()
    assert "".join(train + validation) == "".join(documents)
    assert sum(map(len, validation)) > 0.09 * sum(map(len, documents))


def test_a_split_of_the_source_is_kept():
    assert corpus("a", "b", validation=["c"]).splits() == (("a", "b"), ("c",))


def test_the_hash_tells_documents_and_splits_apart():
    hashes = {c.sha256() for c in (corpus("ab", "c"), corpus("a", "bc"), corpus("abc"), corpus("ab", validation=["c"]))}
    assert len(hashes) == 4


@pytest.mark.parametrize("text", ["", "short", "line\n" * 100, "x" * 1000, "long " * 30 + "\n" + "y" * 333])
def test_pieces_are_the_text(text):
    cut = list(pieces([text, "next"], 50))
    assert "".join(piece for piece, _ in cut) == text + "next"
    assert [last for _, last in cut].count(True) == (2 if text else 1)
    assert cut[-1] == ("next", True)
    assert all(len(piece) <= 200 for piece, _ in cut)
    lines = [piece for piece, last in cut if not last and "\n" in piece]
    assert all(piece.endswith("\n") for piece in lines)
