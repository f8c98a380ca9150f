"""What needs no processes: the file, the manifest, what stays, what is chosen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from smolcluster.files import hash_of
from smolcluster.runtime.checkpoint.choice import candidates
from smolcluster.runtime.checkpoint.files import write_whole
from smolcluster.runtime.checkpoint.fit import differences, uncovered
from smolcluster.runtime.checkpoint.manifest import (
    BadManifestError,
    Cursor,
    Entry,
    Manifest,
    Place,
    Progress,
    ShardFile,
    parse_manifest,
    step_of,
)
from smolcluster.runtime.checkpoint.retention import to_keep
from smolcluster.runtime.checkpoint.snapshot import DTYPES, Camera
from smolcluster.runtime.checkpoint.sources import Sighting, Source, View
from smolcluster.runtime.slices import Box, Slice, boxes_of
from smolcluster.spec.run import CheckpointSpec, NNSpec

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@given(
    st.lists(st.tuples(shapes, st.sampled_from(sorted(DTYPES, key=str)), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(1, 2),
)
def test_slices_of_any_shape_and_dtype_come_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: list, times: int
) -> None:
    """Also from a buffer that is used a second time. safetensors reads what we write, and finds no gap in it."""
    camera = Camera()
    slices = []
    for number, (shape, dtype, part) in enumerate(tensors):
        whole = (
            (torch.arange(max(1, torch.Size(shape).numel()))[: torch.Size(shape).numel()] % 100).to(dtype).view(shape)
        )
        cut = int(part * whole.numel())
        box = Box((0,) * len(shape), shape)
        pieces = [*boxes_of(shape, 0, cut), *boxes_of(shape, cut, whole.numel())]
        slices += [Slice(f"t{number}", shape, piece, whole[piece.within(box)]) for piece in pieces]
    for _ in range(times):
        snapshot = camera.take(slices)
    path = tmp_path_factory.mktemp("files") / "rank-0.safetensors"
    written = write_whole(path, snapshot.chunks())
    assert (written.bytes, written.sha256) == (path.stat().st_size, hash_of(path))
    found = load_file(path)
    assert len(found) == len(slices)
    by_place = {(part.name, part.box): part for part in slices}
    for entry in snapshot.entries:
        part = by_place[entry.name, Box(entry.offset, entry.sizes)]
        assert found[entry.key].dtype == part.tensor.dtype
        assert torch.equal(found[entry.key], part.tensor)


def test_a_snapshot_does_not_change_with_the_state() -> None:
    state = torch.ones(3)
    snapshot = Camera().take([Slice("w", (3,), Box((0,), (3,)), state)])
    state.zero_()
    assert snapshot.body.view(torch.float32).tolist() == [1, 1, 1]


def manifest(step: int = 50, files: int = 2, **changes) -> Manifest:
    entry = Entry(name="w", key="w", dtype="F32", shape=(4,), offset=(0,), sizes=(2,))
    shards = tuple(
        ShardFile(
            rank=rank, bytes=10, sha256="0" * 64, places=(Place(node=f"n{rank}", name=f"rank-{rank}.safetensors"),),
            entries=(entry.model_copy(update={"offset": (2 * rank,)}),),
        )
        for rank in range(files)
    )  # fmt: skip
    fields = {
        "run_id": "r", "generation": 0, "step": step, "total_steps": 100, "world_size": files, "strategy": "fsdp",
        "stage": 1, "plan_digest": "d", "model": NNSpec(input_dim=1, hidden=1, out=1), "val_loss": None,
        "progress": Progress(
            tokens=(1,) * files, seconds=1.0, loss_first=2.0, loss_last=1.0, val_loss_first=None, val_loss=None
        ),
        "cursor": Cursor(epoch=0, step=step, seed=1, global_batch=6, dataset="d"), "files": shards,
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


def test_a_manifest_comes_back() -> None:
    text = manifest().to_json()
    assert parse_manifest(text).to_json() == text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"schema":1', '"schema":2', "it has schema 2, this smolcluster reads 1: upgrade smolcluster"),
        ('"schema":1', '"shema":1', "it has schema None"),
        ('"step":50', '"step":51', "its digest is not that of its text"),
        ('"step":50', '"step":"x"', "step: Input should be a valid integer"),
        ('"name":"rank-0.safetensors"', '"name":"../secret"', "places.0.name: String should match"),
        ('"node":"n0"', '"node":"../x"', "places.0.node: String should match"),
        ('"node":"n0"', '"node":".."', "outside of its folder"),
        ("{", "", "no JSON"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(old: str, new: str, said: str) -> None:
    text = manifest().to_json()
    assert old in text
    with pytest.raises(BadManifestError, match=said):
        parse_manifest(text.replace(old, new, 1))


def test_which_checkpoints_stay() -> None:
    spec = CheckpointSpec(keep=2)
    losses = {10: 3.0, 20: 1.0, 30: None, 40: 2.0, 50: None}
    assert to_keep(losses, 50, spec) == {20, 40, 50}
    assert to_keep(losses, 50, CheckpointSpec(keep=2, keep_best=False)) == {40, 50}
    assert to_keep(losses, 50, CheckpointSpec(keep=9)) == set(losses)
    assert to_keep({10: 1.0, 20: 1.0, 30: None}, 30, CheckpointSpec(keep=1)) == {20, 30}
    assert to_keep({10: None}, 10, CheckpointSpec(keep=1)) == {10}
    # Training went back to 20: what came after it then is neither counted nor kept by us.
    assert to_keep(losses, 20, spec) == {10, 20}


def view(*sightings: tuple[int, str, int, int, tuple[int, ...]]) -> View:
    return View(
        sightings=tuple(
            Sighting(source=s, digest=d, step=step, generation=g, files=files, labels=("file 0", "file 1"))
            for s, d, step, g, files in sightings
        )
    )


def test_the_newest_of_the_first_source_comes_first() -> None:
    rows = [(1, "e", 90, 0), (0, "a", 10, 0), (0, "b", 20, 0), (0, "c", 20, 1)]
    one = view(*((*row, (0,)) for row in rows))
    other = view(*((*row, (1,) if row[1] != "b" else ()) for row in rows))
    found = candidates([one, other])
    assert [candidate.digest for candidate in found] == ["c", "b", "a", "e"]
    assert [candidate.missing for candidate in found] == [(), ("file 1",), (), ()]
    assert found[0].seen == ((0,), (1,))


def test_what_a_person_may_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert Source.named_by(run) == Source(run, None, named=True)
    assert Source.named_by(run / "checkpoints" / "step-00000050.json") == Source(run, 50, named=True)
    copy = run / "nodes" / "n" / "checkpoints" / "step-00000050" / "manifest.json"
    assert Source.named_by(copy) == Source(run, 50, named=True)
    assert [step_of(name) for name in ("step-00000007", "step-7", "step-000000x7", "tep-00000007")] == [
        7,
        None,
        None,
        None,
    ]


def test_another_model_is_told_name_by_name() -> None:
    there = manifest()
    assert differences({"w": (4,)}, there) == []
    assert differences({"w": (5,)}, there) == ["w is (4,) in the checkpoint and (5,) in this run's model"]
    found = differences({f"x{n}": (1,) for n in range(20)}, there)
    assert len(found) == 9
    assert found[0] == "w (4,) is only in the checkpoint"
    assert found[-1] == "and 13 more"
    assert uncovered({"w": (4,)}, there) == []
    assert "does not hold all of w" in uncovered({"w": (4,)}, manifest(files=1))[0]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"

    def broken():
        yield b"half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(path, broken())
    assert list(path.parent.iterdir()) == []
    write_whole(path, [b"old"])
    with pytest.raises(RuntimeError):
        write_whole(path, broken())
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file"]
    assert json.loads(manifest().to_json())["schema"] == 1
