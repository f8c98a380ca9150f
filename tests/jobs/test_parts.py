"""The small parts by themselves: lease, ends of files, words, verdicts, identities, units."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smolcluster.jobs import launch, systemd
from smolcluster.jobs.endings import describe, exit_code_of, result_for
from smolcluster.jobs.identity import ProcessId, alive, end, identify
from smolcluster.jobs.lease import Lease
from smolcluster.jobs.stopping import StopOrder
from smolcluster.jobs.tail import last_lines, last_step
from smolcluster.jobs.verdict import Verdict, judge
from smolcluster.runtime.runfolder import RankResult

from .node import make_plan, make_serve_plan


def test_lease_is_generous_once_and_then_exact() -> None:
    now = [100.0]
    lease = Lease(12.0, clock=lambda: now[0])
    now[0] += 29.9
    assert not lease.out
    lease.renew()
    now[0] += 11.9
    assert lease.remaining_s() == pytest.approx(0.1)
    now[0] += 0.2
    assert lease.out


def test_lease_without_a_term_never_runs_out() -> None:
    now = [0.0]
    lease = Lease(None, clock=lambda: now[0])
    now[0] = 1e9
    assert not lease.out


def step(number: int) -> dict[str, object]:
    names = ("time", "loss", "lr", "tokens_per_s", "grad_norm", "step_s", "compute_s", "comm_s")
    whole = ("tokens", "bytes_out", "bytes_in", "total_steps")
    return {"schema": 1, "step": number, **dict.fromkeys(names, 1.5), **dict.fromkeys(whole, 7)}


LINK = {"schema": 1, "step": 9, "time": 1.0, "peer": 1, "mbps": 1.0, "rtt_ms": 1.0, "buffered": 0}


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("", 3),
        (json.dumps(step(4)), 3),
        (json.dumps(step(4))[:20], 3),
        (json.dumps(step(4)) + "\n", 4),
        (json.dumps(LINK) + "\n", 3),
        ('{"loss": tor\n', 3),
        ((json.dumps(LINK) + "\n") * 2000, 3),
    ],
)
def test_last_step_of_a_file_that_is_being_written(tmp_path: Path, tail: str, expected: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(step(number)) + "\n" for number in (1, 2, 3)) + tail)
    found = last_step(path)
    assert found is not None
    assert found.step == expected


def test_last_step_reads_only_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 34)
        file.seek(0, 2)
        file.write(b"\n" + json.dumps(step(5)).encode() + b"\n")
    found = last_step(path)
    assert found is not None
    assert found.step == 5


def test_no_step_yet(tmp_path: Path) -> None:
    assert last_step(tmp_path / "none.jsonl") is None
    (tmp_path / "empty.jsonl").touch()
    assert last_step(tmp_path / "empty.jsonl") is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ()),
        (b"a\nb\nc\nd\n", ("b", "c", "d")),
        (b"a\nb", ("a", "b")),
        (b"a\n\n\n", ("a",)),
        (b"10%\r20%\r30%\n\xff\xfe\r\n", ("30%", "\ufffd\ufffd")),
        (b"x" * 100_000 + b"\nend\n", ("x" * 2000, "end")),
    ],
)
def test_last_lines(tmp_path: Path, data: bytes, expected: tuple[str, ...]) -> None:
    (tmp_path / "log.txt").write_bytes(data)
    assert last_lines(tmp_path / "log.txt", 3) == expected


def test_no_log() -> None:
    assert last_lines(Path("/nowhere/log.txt"), 3) == ()


def test_endings_in_words() -> None:
    assert describe(-9) == "ended by signal 9 (SIGKILL): killed from outside, or by the system for want of memory"
    assert "SIGILL" in describe(-4)
    assert "exit code 7" in describe(7)
    assert (exit_code_of(-11), exit_code_of(4)) == (139, 4)
    assert result_for(0, "n", -9, "", None).root_cause
    assert not result_for(0, "n", 3, "", None).root_cause


def result(rank: int, status: str, code: int, reason: str, root: bool = False) -> RankResult:
    return RankResult(rank=rank, node="n", status=status, exit_code=code, reason=reason, root_cause=root)  # type: ignore[arg-type]


def test_verdicts() -> None:
    asked = StopOrder("stopped", "enough", 1.0)
    other = StopOrder("failed", "rank 1 of this node failed", 1.0)
    lost, bad = result(0, "failed", 3, "rank 1 is gone"), result(1, "failed", 4, "loss is nan", root=True)
    assert judge({0: 0, 1: 0}, [], None) == Verdict("completed", "", 0)
    assert judge({0: 0}, [], asked) == Verdict("completed", "", 0)
    assert judge({0: 130, 1: 0}, [], asked) == Verdict("stopped", "enough", 130)
    assert judge({0: 130}, [result(0, "stopped", 130, "rank 1 asked")], None) == Verdict("stopped", "rank 1 asked", 130)
    assert judge({0: 3, 1: 4}, [lost, bad], other) == Verdict("failed", "rank 1: loss is nan", 4)
    killed = result(1, "failed", 137, "killed", root=True)
    assert judge({0: 3, 1: -9}, [lost, killed], other) == Verdict("failed", "rank 1: killed", 3)
    assert judge({0: 1}, [], other) == Verdict("failed", "rank 1 of this node failed", 3)


def test_process_is_its_pid_and_its_birth() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        who = identify(child.pid)
        assert who is not None
        assert alive(who)
        impostor = ProcessId(pid=child.pid, birth="another boot:1")
        assert not alive(impostor)
        assert end(impostor, grace_s=0)
        assert child.poll() is None
        assert end(who, grace_s=1)
        # Ended and not yet waited for by its parent: gone all the same.
        assert identify(child.pid) is None


def test_unit_of_systemd() -> None:
    unit = systemd.unit_name("20260101-fsdp-ab12", "pi 5/ü", 2)
    assert unit == "smolcluster-20260101-fsdp-ab12-pi-5---2"
    command = systemd.command(unit, Path("/r/supervisor.txt"), Path("/r"), ("python", "-m", "x"), user_id=0)
    assert command[:2] == ["systemd-run", f"--unit={unit}"]
    assert command[-4:] == ["--", "python", "-m", "x"]
    for wanted in ("Restart=no", "KillMode=mixed", "Type=exec", "StandardOutput=append:/r/supervisor.txt"):
        assert f"--property={wanted}" in command
    mine = systemd.command(unit, Path("/r/supervisor.txt"), Path("/r"), ("python",), user_id=1000)
    assert mine[:4] == ["env", "XDG_RUNTIME_DIR=/run/user/1000", "systemd-run", "--user"]


@pytest.mark.parametrize(
    ("listen", "usable", "chosen"),
    [
        (("127.0.0.1",), True, "child"),
        (("::1", "localhost"), True, "child"),
        (("127.0.0.1", "10.10.0.1"), True, "systemd"),
        (("mini1.local",), True, "systemd"),
        (("10.10.0.1",), False, "child"),
    ],
)
def test_auto_takes_systemd_for_machines_that_have_it(
    monkeypatch: pytest.MonkeyPatch, listen: tuple[str, ...], usable: bool, chosen: str
) -> None:
    monkeypatch.setattr(systemd, "usable", lambda: usable)
    assert launch._choose("auto", make_plan("n", ("run",), listen).ranks) == chosen
    assert launch._choose("child", make_plan("n", ("run",), listen).ranks) == "child"


@pytest.mark.parametrize(("dials", "chosen"), [("127.0.0.1", "child"), ("10.10.0.1", "systemd")])
def test_a_rank_that_is_dialled_by_nobody_is_elsewhere_if_whom_it_dials_is(
    monkeypatch: pytest.MonkeyPatch, dials: str, chosen: str
) -> None:
    """The API of a served model, alone on its node."""
    monkeypatch.setattr(systemd, "usable", lambda: True)
    api = make_serve_plan("n", ("run", "run"), 0).ranks[1].model_copy(update={"peers": {0: dials}})
    assert api.listen == ()
    assert launch._choose("auto", [api]) == chosen


def test_nothing_here_needs_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, smolcluster.jobs, smolcluster.supervisor, smolcluster.commands.job\n"
        "import smolcluster.commands.enroll\n"
        "for one in pkgutil.walk_packages(smolcluster.jobs.__path__, 'smolcluster.jobs.'):\n"
        "    importlib.import_module(one.name)\n"
        "bad = {'torch', 'paramiko', 'numpy'} & set(sys.modules); assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
