"""One stage as a state machine, and every split of a model: the same logits, bit for bit where only rows travel."""

import itertools

import pytest
import torch

from smolcluster.infer.messages import Cancel, Error, Logits, Open, Reset, Span, Step, decode, encode
from smolcluster.infer.stage import Stage
from smolcluster.models.partition import LayerRange, whole
from smolcluster.models.stage_weights import load_stage
from tests.infer.infer_models import CONTEXT, LAYERS, VOCABULARY

SPLITS = [
    tuple(itertools.pairwise((0, *inner, LAYERS)))
    for size in range(LAYERS)
    for inner in itertools.combinations(range(1, LAYERS), size)
]


def through(chain, message):
    """What comes out of the last stage; what travels goes through its bytes."""
    messages = [message]
    for number, stage in enumerate(chain):
        out = [one for given in messages for one in stage.handle(given)]
        messages = [as_sent(one) for one in out] if number + 1 < len(chain) else out
    return messages


def as_sent(message):
    from smolcluster.comm.frame import HEADER_BYTES, Kind, pack, unpack
    from smolcluster.comm.link import Message

    op, tag, payload = encode(message)
    head = pack(Kind.MESSAGE, len(payload), op=op, tag=tag)
    assert len(head) == HEADER_BYTES
    return decode(Message(unpack(head, 1 << 30, "the test"), bytearray(payload)), "the test")


def logits_of(chain, pieces, salt=0):
    """(sum of pieces, V): every piece is one step of one session."""
    ids = torch.tensor([(11 * number + salt) % VOCABULARY for number in range(sum(pieces))])
    assert through(chain, Open(0, salt, CONTEXT)) == []
    rows, pos = [], 0
    for number, count in enumerate(pieces):
        span = Span(salt, pos, count, wanted=True)
        [out] = through(chain, Step(0, number, (span,), ids[pos : pos + count]))
        rows.append(out.rows)
        pos += count
    return torch.cat(rows)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "qwen3", "llama3"])
def test_every_split_gives_the_whole_models_logits(models, kind, precision):
    model, folder = models(kind)
    pieces = (5, 1, 1, 3, 1)
    one = logits_of([Stage(load_stage(folder, None, precision))], pieces)
    loaded = {}
    for split in SPLITS:
        for start, stop in split:
            if (start, stop) not in loaded:
                loaded[start, stop] = load_stage(folder, LayerRange(start, stop, LAYERS), precision)
        split_logits = logits_of([Stage(loaded[part]) for part in split], pieces)
        assert (split_logits - one).abs().max() <= 1e-5, split
    with torch.no_grad():
        ids = torch.tensor([[(11 * number) % VOCABULARY for number in range(sum(pieces))]])
        ends = [sum(pieces[: number + 1]) - 1 for number in range(len(pieces))]
        oracle = model(ids).logits[0, ends]
    # What rounding may do to logits of that size: bf16 keeps 8 bits, int8 about 7.
    allowed = {"fp32": 1e-5, "bf16": 0.1, "int8": 0.15}[precision] * oracle.abs().max()
    assert (one - oracle).abs().max() <= allowed


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_int8_gives_a_row_the_same_bits_in_any_company(models, kind):
    stage = load_stage(models(kind)[1], None, "int8")
    from smolcluster.models.decoder import Row

    def row(salt, size):
        return torch.tensor([(11 * number + salt) % VOCABULARY for number in range(size)])

    alone = stage(row(1, 4), [Row(stage.new_cache(9), 4, True)])
    loud = [Row(stage.new_cache(9), 3, True), Row(stage.new_cache(9), 4, True), Row(stage.new_cache(9), 1, True)]
    together = stage(torch.cat((row(5, 3), row(1, 4), row(9, 1))), loud)
    assert torch.allclose(together[1], alone[0], atol=1e-6, rtol=0)


@pytest.fixture
def stage(models):
    return Stage(load_stage(models("gpt2")[1], whole(LAYERS)))


def step(*spans, epoch=0, number=0):
    return Step(epoch, number, spans, torch.zeros(sum(span.length for span in spans), dtype=torch.int64))


def test_a_row_that_does_not_continue_its_cache_is_an_error_and_the_others_are_computed(stage):
    for session in (1, 2):
        list(stage.handle(Open(0, session, 8)))
    out = list(stage.handle(step(Span(1, 1, 1, True), Span(2, 0, 2, True), Span(3, 0, 1, True), number=7)))
    assert [(type(one), getattr(one, "session", None)) for one in out] == [(Error, 1), (Error, 3), (Logits, None)]
    assert (out[2].step, out[2].sessions, tuple(out[2].rows.shape)) == (7, (2,), (1, VOCABULARY))
    assert "tokens 1 to 2 after 0" in out[0].reason
    assert stage.state().sessions == 1
    # Nobody is left: the step comes back all the same, so that the head can count it.
    [refused, empty] = stage.handle(step(Span(1, 0, 1, True), number=8))
    assert (refused.session, empty.step, empty.sessions) == (1, 8, ())


@pytest.mark.parametrize(
    "spans",
    [
        (Span(1, 0, 0, True),),
        (Span(1, 0, 9, True),),
        (Span(1, 0, 1, True), Span(1, 1, 1, True)),
        (Span(1, 0, 1, True),) * 2,
    ],
)
def test_no_tokens_too_many_and_a_session_twice_are_errors(stage, spans):
    list(stage.handle(Open(0, 1, 8)))
    assert any(isinstance(one, Error) and one.session == 1 for one in stage.handle(step(*spans)))


def test_a_session_id_is_used_once(stage):
    list(stage.handle(Open(0, 1, 8)))
    [error] = stage.handle(Open(0, 1, 8))
    assert "never used again" in error.reason


def test_older_epochs_are_not_heard_and_reset_forgets_everything(stage):
    list(stage.handle(Open(0, 1, 8)))
    assert list(stage.handle(Reset(3))) == [Reset(3)]
    assert stage.state().sessions == 0
    for old in (Open(0, 2, 8), step(Span(1, 0, 1, True)), Cancel(0, 1)):
        assert list(stage.handle(old)) == []
    assert stage.state().sessions == 0
    list(stage.handle(Open(3, 2, 8)))
    assert list(stage.handle(Cancel(3, 2))) == [Cancel(3, 2)]
    assert (stage.state().sessions, stage.state().cache_bytes) == (0, 0)


def test_a_stage_reads_no_tensor_of_another(models, tmp_path):
    from tests.infer.infer_models import save

    for kind in ("gpt2", "qwen2"):
        _, folder = save(kind, tmp_path / kind, max_shard_size="60KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
        check_reading(folder, kind == "qwen2" or kind == "gpt2")
        check_reading(models(kind)[1], True)


def check_reading(folder, tied):
    from smolcluster.models.stage_weights import build_stage
    from smolcluster.models.tensors import open_tensors
    from smolcluster.spec.shape import read_shape

    read: list[set[str]] = []
    for split in ((0, 1), (1, 3), (3, 4)):
        part = LayerRange(*split, LAYERS)
        with open_tensors(folder) as tensors:
            build_stage(read_shape(folder), part, tensors, "fp32")
            assert tensors.read
            assert set(tensors.read) == {name for name in tensors.names() if part.holds(name, tied)}
            assert len(tensors.read) == len(set(tensors.read))
            read.append(set(tensors.read))
    twice = {name for one, other in itertools.combinations(read, 2) for name in one & other}
    assert all("wte" in name or "embed_tokens" in name for name in twice)
    assert len(twice) == 1
