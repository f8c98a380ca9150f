"""What a reader is shown while tokens come: whole characters, no part of a stop string, and nothing lost."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.infer.text import StopScanner, Writer, text_ids
from tests.infer.infer_models import small_tokenizer

TOKENIZER = small_tokenizer()
texts = st.text(st.sampled_from("abc the\n€ä漢🙂🏽"), max_size=40)
pieces = st.lists(st.text(st.sampled_from("ab€"), max_size=4), max_size=30)
stop_lists = st.lists(st.text(st.sampled_from("ab€"), min_size=1, max_size=4), max_size=3)


@given(pieces, stop_lists)
@settings(max_examples=300, deadline=None)
def test_stop_strings_across_any_borders(parts, stops):
    scanner = StopScanner(stops)
    shown, whole = "", "".join(parts)
    earliest = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=None)
    given_so_far = ""
    for part in parts:
        shown += scanner.feed(part)
        given_so_far += part
        assert given_so_far.startswith(shown)
        # Nothing that may still become a stop string has been shown.
        for stop in stops:
            assert stop not in shown
    shown += scanner.finish()
    if earliest is None:
        assert (shown, scanner.stopped) == (whole, False)
    else:
        assert scanner.stopped
        assert not any(stop in shown for stop in stops)
        # The first one that is complete when its last character comes, at its earliest place then.
        ends = {whole.find(stop) + len(stop): stop for stop in stops if stop in whole}
        assert whole.startswith(shown)
        assert len(shown) <= min(ends)


def test_what_may_become_a_stop_string_is_held_back():
    scanner = StopScanner(["User:"])
    assert [scanner.feed(piece) for piece in ("Hi", "\nUs", "e", "d it. U", "ser", ": no")] == [
        "Hi", "\n", "", "Used it. ", "", "",
    ]  # fmt: skip
    assert scanner.stopped
    assert scanner.finish() == ""


@given(texts)
@settings(max_examples=200, deadline=None)
def test_characters_come_whole_and_nothing_is_lost(text):
    writer = Writer(TOKENIZER, ())
    ids = TOKENIZER.encode(text).ids
    shown = [writer.feed(token) for token in ids]
    assert not any("\ufffd" in piece for piece in shown)
    assert "".join(shown) + writer.finish() == TOKENIZER.decode(ids) == text


@given(st.lists(st.integers(1, TOKENIZER.get_vocab_size() - 1), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_tokens_give_in_pieces_what_they_give_at_once(ids):
    writer = Writer(TOKENIZER, ())
    shown = "".join(writer.feed(token) for token in ids) + writer.finish()
    assert shown == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_a_character_cut_off_by_the_end_shows_at_the_end_only():
    ids = TOKENIZER.encode("a🙂").ids
    writer = Writer(TOKENIZER, ())
    assert "".join(writer.feed(token) for token in ids[:-1]) == "a"
    assert "\ufffd" in writer.finish()


END = "<|endoftext|>"
pieces_of_text = st.lists(st.sampled_from(["a", " ", "é", "|", "<", END, END[:5], END[5:]]), max_size=5).map("".join)
parts_of_a_prompt = st.lists(st.tuples(st.booleans(), pieces_of_text), max_size=6)


@given(parts_of_a_prompt)
@settings(max_examples=300, deadline=None)
def test_special_tokens_come_only_from_what_is_not_literal(parts):
    text, literal, allowed = "", [], 0
    for is_literal, part in parts:
        if is_literal and part:
            literal.append((len(text), len(text) + len(part)))
        text += part
    at = text.find(END)
    while at >= 0:
        allowed += not any(start < at + len(END) and at < stop for start, stop in literal)
        at = text.find(END, at + len(END))
    ids = text_ids(text, TOKENIZER, literal)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert ids.count(TOKENIZER.token_to_id(END)) == allowed
    if allowed == text.count(END):
        assert ids == TOKENIZER.encode(text, add_special_tokens=False).ids
