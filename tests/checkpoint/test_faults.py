"""Files that went bad, disks that refuse, things that are not ours: one clear word, and the last good one loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from smolcluster.errors import InputError
from smolcluster.runtime.checkpoint.files import PART
from smolcluster.runtime.checkpoint.manifest import shard_name, step_folder
from smolcluster.runtime.runfolder import RunFolder
from tests.checkpoint.jobs import call, load, on_hosts, train, warnings_of
from tests.checkpoint.mounted import forbidden, job, on_read_only
from tests.checkpoint.runs import loaded, plan, same, state_of
from tests.comm.pool import Pool

STEPS = 4


def made(world_size: int = 2, **checkpoint):
    return plan(world_size, "fsdp", 1, {"every_steps": 2, **checkpoint}, max_steps=STEPS, eval_steps=100)


@pytest.fixture(scope="module")
def good(pool: Pool, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 2 and 4, of two ranks."""
    folder = tmp_path_factory.mktemp("good")
    pool.run(2, call, train, (folder, data, made()), {})
    return folder


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "run")


def file_of(folder: Path, rank: int, step: int) -> Path:
    return step_folder(RunFolder(folder), f"node{rank + 1}", step) / shard_name(rank)


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def in_manifests(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        paths = [*folder.rglob("step-00000004.json"), *folder.rglob("step-00000004/manifest.json")]
        assert len(paths) == 3
        for path in paths:
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new, 1))

    return change


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "first byte": (lambda run: flip(file_of(run, 1, 4), 0.0), "rank-1.safetensors on node2 is damaged"),
    "a byte of the table": (lambda run: flip(file_of(run, 1, 4), 0.02), "is damaged: its SHA-256 is not the one"),
    "a byte of a tensor": (lambda run: flip(file_of(run, 0, 4), 0.7), "rank-0.safetensors on node"),
    "last byte": (lambda run: flip(file_of(run, 1, 4), 1.0), "is damaged"),
    "cut short": (lambda run: os.truncate(file_of(run, 1, 4), 1000), "is 1,000 bytes long where"),
    "empty": (lambda run: os.truncate(file_of(run, 0, 4), 0), "is 0 bytes long where"),
    "missing": (lambda run: file_of(run, 1, 4).unlink(), "nobody sees rank 1's file (rank-1.safetensors on node2)"),
    "newer schema": (in_manifests('"schema":1', '"schema":7'), "upgrade smolcluster on every node"),
    "a byte of the manifests": (in_manifests('"seed":11', '"seed":12'), "its digest is not that of its text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_one_before_is_taken(pool: Pool, data: Path, run: Path, good: Path, fault: str) -> None:
    spoil, said = FAULTS[fault]
    spoil(run)
    before = sorted(run.rglob("*"))
    told = pool.run(2, warnings_of, load, run, data, made(), 2, good)
    assert said in "\n".join(told[0])
    assert told[0][-1] == "the checkpoint of step 2 is taken"
    assert told[1] == [], "one rank tells it"
    assert sorted(run.rglob("*")) == before, "a reader removes nothing"
    # And one that is named is taken or nothing.
    named = run / "checkpoints" / "step-00000004.json"
    for outcome in pool.outcomes(2, call, train, (run.parent / "new", data, made()), {"resume": named}):
        assert outcome.error == "InputError"
        assert "no checkpoint of step 4 in it can be used" in outcome.value
        assert said in outcome.value
        assert "fix: " in outcome.value


def test_all_bad_is_an_error_even_if_nobody_asked(pool: Pool, data: Path, run: Path) -> None:
    for step in (2, 4):
        flip(file_of(run, 0, step), 0.5)
    for outcome in pool.outcomes(2, call, train, (run, data, made()), {"generation": 1}):
        assert outcome.error == "InputError"
        assert outcome.value.count("is damaged") >= 2
        assert "nobody sees" not in outcome.value, "a damaged file is told once"
        assert outcome.value.count("copy") == 1, "and how to mend it once for all"


def test_a_bad_manifest_that_has_a_copy_harms_nobody(pool: Pool, data: Path, run: Path, good: Path) -> None:
    flip(run / "checkpoints" / "step-00000004.json", 0.5)
    (run / "nodes" / "node1" / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    assert pool.run(2, call, load, (run, data, made(), 4, good), {}) == [[], []]


def test_what_does_not_belong_there_is_left_alone(pool: Pool, data: Path, run: Path) -> None:
    """Foreign files are no checkpoints and nobody's to remove; what an interrupted save left goes with the next one."""
    half = step_folder(RunFolder(run), "node2", 3)
    half.mkdir()
    shutil.copy(file_of(run, 1, 2), half / shard_name(1))
    (half / f".{shard_name(9)}{PART}").write_bytes(b"half")
    (run / "checkpoints" / f".step-00000003.json{PART}").write_text("{")
    foreign = [
        run / "checkpoints" / "notes.txt",
        run / "checkpoints" / "step-x.json",
        run / "nodes" / "node1" / "checkpoints" / "old" / "rank-0.safetensors",
        file_of(run, 0, 2).with_name("mine.txt"),
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("somebody's")
    # A clock that was set back, files from the future: only steps count.
    for number, path in enumerate(sorted(run.rglob("*"))):
        os.utime(path, (4e9 - 1e8 * number,) * 2)
    longer = plan(2, "fsdp", 1, {"every_steps": 2, "keep": 1, "keep_best": False}, max_steps=6, eval_steps=100)
    accounts = pool.run(2, call, train, (run, data, longer), {"generation": 1})
    assert [account.resumed_step for account in accounts] == [4, 4]
    assert all(path.read_text() == "somebody's" for path in foreign)
    assert not half.exists()
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == [
        "notes.txt",
        "step-00000006.json",
        "step-x.json",
    ]
    left = {path.relative_to(run).as_posix() for path in run.rglob("*.safetensors") if "model" not in path.parts}
    assert left == {
        "nodes/node1/checkpoints/old/rank-0.safetensors",
        "nodes/node1/checkpoints/step-00000006/rank-0.safetensors",
        "nodes/node2/checkpoints/step-00000006/rank-1.safetensors",
    }


def full_disk(folder: Path) -> None:
    place = file_of(folder, 1, 2)
    place.parent.mkdir(parents=True)
    place.with_name(f".{place.name}{PART}").symlink_to("/dev/full")


def no_folder(folder: Path) -> None:
    place = file_of(folder, 1, 2).parent
    place.parent.mkdir(parents=True)
    place.write_text("in the way")


def no_manifest(folder: Path) -> None:
    (folder / "checkpoints" / "step-00000002.json").mkdir(parents=True)


def no_copy(folder: Path) -> None:
    place = file_of(folder, 0, 2).with_name("copy-of-rank-1.safetensors")
    place.parent.mkdir(parents=True)
    place.with_name(f".{place.name}{PART}").symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("spoil", "node", "said", "fix", "replicas"),
    [
        (full_disk, 1, "node2 could not write", "ENOSPC, No space left on device. Fix: free space", 1),
        (no_folder, 1, "node2 could not write", "Fix: move away the file that stands where a folder", 1),
        (no_manifest, 0, "node1 could not write", "EISDIR, Is a directory. Fix: move away the folder", 1),
        (no_copy, 0, "node1 could not write", "copy-of-rank-1.safetensors: ENOSPC, No space left on device", 2),
    ],
    ids=["full disk", "no folder", "no manifest", "no room for a copy"],
)
def test_a_disk_that_refuses_costs_that_checkpoint_only(
    pool: Pool, data: Path, tmp_path: Path, good: Path, spoil, node: int, said: str, fix: str, replicas: int
) -> None:
    run = tmp_path / "run"
    spoil(run)
    told = pool.run(2, warnings_of, train, run, data, made(replicas=replicas))
    for rank in {0, node}:  # rank 0 knows all, the node that failed has it in its own log
        [message] = told[rank]
        assert message.startswith("NO CHECKPOINT of step 2; training goes on, the one before stays:")
        assert said in message
        assert fix in message
    if spoil is not no_manifest:
        assert not list(run.glob("checkpoints/*02.json"))
    assert not [
        path for path in run.rglob("*") if "00000002" in path.as_posix() and path.is_file() and path.stat().st_size > 20
    ]
    assert same(state_of(run, 4), state_of(good, 4))


def test_a_limit_on_files_is_told_like_a_full_disk(pool: Pool, data: Path, tmp_path: Path) -> None:
    told = pool.run(2, call, warnings_of, (train, tmp_path, data, made()), {"limit": (1, 20_000)})
    assert ["EFBIG" in message for message in told[1]] == [True, True]
    assert not list((tmp_path / "checkpoints").glob("*.json"))
    assert not list(tmp_path.glob("nodes/*/checkpoints/*/*"))


READ_ONLY = ": EROFS, Read-only file system. Fix: mount it writable, or choose another workdir in the inventory"
needs_mounts = pytest.mark.skipif(bool(forbidden()), reason=f"no mounts here: {forbidden()}")


@needs_mounts
def test_a_run_on_a_read_only_mount_can_be_gone_on_with(data: Path, run: Path, good: Path, tmp_path: Path) -> None:
    told = job(run, good, "go_on", run, data, tmp_path / "new")
    assert told == {"wrong": [], "from": 4, "steps": 6}
    assert loaded(tmp_path / "new", 6).step == 6


@needs_mounts
@pytest.mark.parametrize("place", ["checkpoints", "nodes/node1/checkpoints"], ids=["manifests", "files"])
def test_checkpoints_on_a_read_only_mount(data: Path, run: Path, good: Path, place: str) -> None:
    """What was saved stays good, each save that fails is told once, and training goes on to its end."""
    told = job(run / place, good / place, "go_on_there", run, data)
    [message] = told["told"]
    assert message.startswith(
        "NO CHECKPOINT of step 6; training goes on, the one before stays:\n  node1 could not write"
    )
    assert message.endswith(READ_ONLY)
    assert told["wrong"] == []
    assert not list(run.rglob("*00000006*/*.safetensors"))


@needs_mounts
@pytest.mark.parametrize("command", [("train",), ("report", "runs/latest")], ids=lambda words: words[0])
def test_a_command_on_a_read_only_mount_says_one_thing(good: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    runs = tmp_path / "project" / "runs"
    runs.mkdir(parents=True)
    shutil.copytree(good, tmp_path / "old" / "before")
    (tmp_path / "old" / "latest").symlink_to("before")
    (tmp_path / "old" / "before" / "plan.json").write_text(made().to_json())
    (tmp_path / "project" / "inventory").mkdir()
    root = Path(__file__).resolve().parents[2]
    shutil.copy(root / "inventory" / "local.smol.yml", tmp_path / "project" / "inventory")
    words = ("-m", "smolcluster.train") if command == ("train",) else ("-m", "smolcluster", *command)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    outcome = on_read_only(runs, tmp_path / "old", *words, cwd=tmp_path / "project", env=environment)
    assert outcome.returncode == 2, outcome.stdout + outcome.stderr
    [said] = [line for line in outcome.stderr.splitlines() if not line.startswith(("data: ", "note: "))]
    assert said.startswith(str(runs))
    assert said.endswith(READ_ONLY)


@pytest.mark.parametrize("transport", ["smol", "gloo"])
def test_machines_that_share_no_files(pool: Pool, data: Path, tmp_path: Path, transport: str) -> None:
    """Each rank sees its own node's files only: the others' slices travel."""
    hosts, merged = tmp_path / "hosts", tmp_path / "merged"
    pool.run(3, on_hosts, train, hosts, data, made(3), transport=transport)
    for host in sorted(hosts.iterdir()):
        assert len(list(host.glob("run/nodes/*"))) == 1
        shutil.copytree(host / "run", merged, dirs_exist_ok=True)
    # As after a crash between the manifest and its copies: this node's files are a checkpoint all the same.
    for path in (hosts / "node2").rglob("manifest.json"):
        path.unlink()
    for reading in (made(3), plan(3, "fsdp", 3), plan(3, "classicdp")):
        assert pool.run(3, on_hosts, load, hosts, data, reading, STEPS, merged, transport=transport) == [[]] * 3
    # Two machines are left, and one has the lost one's files.
    shutil.copytree(hosts / "node3" / "run", hosts / "node2" / "run", dirs_exist_ok=True)
    assert pool.run(2, on_hosts, load, hosts, data, plan(2, "fsdp", 2), STEPS, merged, transport=transport) == [[]] * 2
    shutil.rmtree(hosts / "node2" / "run" / "nodes" / "node3")
    for outcome in pool.outcomes(2, on_hosts, load, hosts, data, made(2), STEPS, merged, transport=transport):
        assert outcome.error == "InputError"
        assert "rank 2's file (rank-2.safetensors on node3)" in outcome.value


def test_another_model_is_refused_and_another_seed_noted(data: Path, good: Path, tmp_path: Path) -> None:
    other = plan(1, "single", max_steps=8)
    deeper = other.run.model_copy(update={"model": other.run.model.model_copy(update={"num_layers": 3, "ff_dim": 32})})
    with pytest.raises(InputError) as caught:
        train(None, tmp_path / "a", data, other.model_copy(update={"run": deeper}), resume=good)
    text = str(caught.value)
    assert "the checkpoint of step 4 is of another model:" in text
    assert "transformer.h.0.mlp.c_fc.weight is (32, 64) in the checkpoint and (32, 32) in this run's model" in text
    assert "more" in text
    seeded = other.model_copy(update={"run": other.run.model_copy(update={"seed": 12})})
    assert train(None, tmp_path / "b", data, seeded, resume=good).resumed_step == 4
    assert loaded(tmp_path / "b", 8).cursor.seed == 12
