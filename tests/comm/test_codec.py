"""Wire formats, to the byte: what a frame is, what comes out of it, and what stays behind."""

from __future__ import annotations

import struct

import pytest
import torch

from smolcluster.comm import codec as codec_module
from smolcluster.comm.codec import BLOCK, Codec, codec_of
from smolcluster.comm.feedback import ErrorFeedback
from smolcluster.spec.run import WireFormat

FORMATS: list[WireFormat] = ["fp32", "bf16", "fp16", "int8"]
TINY = torch.finfo(torch.float32).tiny
LARGEST = torch.finfo(torch.float32).max
COUNTS = [0, 1, 2, 3, 255, 256, 257, 511, 512, 1000, 3 * codec_module.CHUNK + 5]


def frame_of(codec: Codec, values: torch.Tensor) -> torch.Tensor:
    frame = torch.full((codec.frame_bytes(len(values)),), 0xAA, dtype=torch.uint8)
    codec.encode(values, frame)
    return frame


def through(wire: WireFormat, values: torch.Tensor) -> torch.Tensor:
    codec = codec_of(wire)
    out = torch.full_like(values, 7.0)
    codec.decode(frame_of(codec, values), out)
    return out


def reference(values: torch.Tensor) -> torch.Tensor:
    """What int8 makes of finite numbers, block by block, as plainly as it can be said."""
    blocks = [values[:0]]
    for block in values.split(BLOCK) if len(values) else ():
        scale = block.abs().max() / 127
        blocks.append(torch.round(block * (1 / scale)) * scale if scale >= TINY else torch.zeros_like(block))
    return torch.cat(blocks)


def test_bytes_of_a_frame() -> None:
    assert [codec_of("int8").frame_bytes(n) for n in (0, 1, 4, 256, 257, 1024)] == [0, 8, 8, 260, 268, 1040]
    assert [codec_of("bf16").frame_bytes(n) for n in (0, 1, 2, 256, 257)] == [0, 4, 4, 512, 516]
    assert [codec_of("fp32").frame_bytes(n) for n in (0, 1, 257)] == [0, 4, 1028]
    assert codec_of("int8").frame_bytes(1 << 20) / (4 << 20) == 260 / 1024 < 0.27


def test_an_int8_frame_is_scales_then_numbers_then_zeros() -> None:
    values = torch.zeros(257)
    values[:4] = torch.tensor([127.0, -127.0, 2.5, 3.5])  # ties go to the even number
    values[256] = -0.5
    frame = bytes(frame_of(codec_of("int8"), values).tolist())
    assert frame[:8] == struct.pack("=2f", 1.0, torch.tensor(0.5).div(127).item())
    assert struct.unpack("257b", frame[8:265]) == (127, -127, 2, 4, *[0] * 252, -127)
    assert frame[265:] == bytes(3)


@pytest.mark.parametrize("count", COUNTS)
def test_int8_is_its_reference_at_every_length(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 3
    assert torch.equal(through("int8", values), reference(values))
    codec, total = codec_of("int8"), torch.randn(count)
    wanted = total + reference(values)
    codec.add(frame_of(codec, values), total)
    assert torch.equal(total, wanted)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("wire", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_casts_are_torch_s(wire: WireFormat, dtype: torch.dtype, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    assert torch.equal(through(wire, values), values.to(dtype).float())


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf, LARGEST, -LARGEST])
def test_a_block_with_something_that_is_not_finite_is_nan_and_its_neighbours_are_not(odd: float) -> None:
    values = torch.randn(3 * BLOCK + 9, generator=torch.Generator().manual_seed(1))
    spoilt = values.clone()
    spoilt[BLOCK + 7] = odd
    frame = frame_of(codec_of("int8"), spoilt)
    got, clean = torch.empty_like(values), through("int8", values)
    codec_of("int8").decode(frame, got)
    assert got[BLOCK : 2 * BLOCK].isnan().all()
    for part in (slice(0, BLOCK), slice(2 * BLOCK, None)):
        assert torch.equal(got[part], clean[part])
    numbers = frame[16:].view(torch.int8)
    assert not numbers[BLOCK : 2 * BLOCK].any()  # the same bytes on every machine


def test_just_below_the_largest_number_is_still_a_number() -> None:
    below = torch.nextafter(torch.tensor(LARGEST), torch.tensor(0.0))
    got = through("int8", torch.stack([below, -below, torch.tensor(1e38)]))
    assert got.isfinite().all()
    torch.testing.assert_close(got[:2], torch.stack([below, -below]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [0.0, -0.0, 1e-45, TINY, TINY * 126])
def test_zeros_and_what_is_too_small_for_a_scale_are_zeros(size: float) -> None:
    values = torch.full((BLOCK + 3,), size)
    assert frame_of(codec_of("int8"), values).count_nonzero() == 0
    assert through("int8", values).count_nonzero() == 0
    residual = torch.zeros_like(values)
    feedback = ErrorFeedback(codec_of("int8"), residual)
    feedback.seal(values)
    assert torch.equal(residual, values)  # it waits for more


def test_the_smallest_scale() -> None:
    values = torch.full((4,), TINY * 127)
    assert torch.equal(through("int8", values), values)


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("count", [0, 1, 300, 2 * codec_module.CHUNK + 77])
def test_what_is_sealed_and_what_stays_is_what_there_was(wire: WireFormat, count: int) -> None:
    chance = torch.Generator().manual_seed(3)
    codec, residual, decoded = codec_of(wire), torch.zeros(count), torch.zeros(count)
    feedback = ErrorFeedback(codec, residual)
    for step in range(5):
        values = torch.randn(count, generator=chance) * 10.0**-step
        wanted = residual + values
        codec.decode(feedback.seal(values), decoded)
        # The difference of two float32 that are that near each other is one: no rounding, so this is exact.
        assert torch.equal(decoded.double() + residual.double(), wanted.double())


def test_over_all_steps_nothing_is_lost() -> None:
    """On numbers whose sums float32 holds exactly: each block's scale is kept at 1/16 by a number of 127 levels."""
    chance = torch.Generator().manual_seed(4)
    count = 3 * BLOCK
    codec, residual, decoded = codec_of("int8"), torch.zeros(count), torch.zeros(count)
    feedback = ErrorFeedback(codec, residual)
    given, got = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for _ in range(50):
        values = torch.randint(-(1 << 14), 1 << 14, (count,), generator=chance) / (1 << 12)
        values[::BLOCK] = 127 / 16
        given += values
        codec.decode(feedback.seal(values), decoded)
        got += decoded
    assert residual.any()
    assert torch.equal(got + residual, given)
    assert (got - given).abs().max() <= 1 / 32  # and never more than half a level is owed


def test_a_retry_sends_the_same_bytes_and_commits_nothing() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(5))
    feedback = ErrorFeedback(codec_of("int8"), torch.zeros(1000))
    first = bytes(feedback.seal(values).tolist())
    owed = feedback.residual.clone()
    assert bytes(feedback.frame.tolist()) == first
    assert torch.equal(feedback.residual, owed)
    second = bytes(feedback.seal(values).tolist())
    assert second != first
    feedback.forget()
    assert bytes(feedback.seal(values).tolist()) == first


@pytest.mark.parametrize("wire", ["fp16", "int8"])
def test_nothing_of_a_bad_step_is_owed(wire: WireFormat) -> None:
    values = torch.linspace(0.1, 1, 2 * BLOCK + 5)
    values[3], values[-1] = torch.inf, torch.nan
    feedback = ErrorFeedback(codec_of(wire), torch.full_like(values, 1e-3))
    feedback.seal(values)
    assert feedback.residual.isfinite().all()
    assert feedback.residual[BLOCK : 2 * BLOCK].any()
    if wire == "int8":
        assert not feedback.residual[:BLOCK].any()
        assert not feedback.residual[2 * BLOCK :].any()


def test_a_frame_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="need a frame of 260 bytes, not of 4"):
        ErrorFeedback(codec_of("int8"), torch.zeros(256), torch.zeros(4, dtype=torch.uint8))
