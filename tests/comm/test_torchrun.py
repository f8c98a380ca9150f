"""Scripts that torchrun starts, with real agents: the examples, two machines with TLS, deaths, restarts, leaving."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.comm.certificates import make_certificates
from tests.comm.torchrun_job import Job

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "documentation" / "examples"
# The agent looks after its ranks every three seconds: those that are left have the time to say what they saw.
ALONE = ("--standalone", "--nproc-per-node", "3", "--monitor-interval", "3")


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as opened:
        return int(opened.getsockname()[1])


def losses(job: Job) -> list[float]:
    lines = [line for line in job.out().splitlines() if line.startswith(("epoch", "losses"))]
    return [float(number) for line in lines for number in re.findall(r"\d+\.\d+", line)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "ranks", "last"),
    [pytest.param("ddp.py", 3, "epoch 4", marks=pytest.mark.core), ("trainer.py", 2, "losses")],
)
def test_an_example_computes_the_same_on_smol_as_on_gloo(name: str, ranks: int, last: str) -> None:
    said = {}
    for backend in ("smol", "gloo"):
        options = ("--standalone", "--nproc-per-node", str(ranks))
        with Job(options, [str(EXAMPLES / name), backend]) as job:
            if backend == "smol":
                assert job.wait() == 0, job.err()
                assert "Error" not in job.err()
            line = job.line(last)  # how gloo's ranks end is not ours to wait for
            assert line.endswith(f"on {backend}")
            assert name == "ddp.py" or "distributed" in line  # Trainer says that it takes it for several processes
            said[backend] = losses(job)
    assert len(said["smol"]) >= 4
    assert said["smol"] == pytest.approx(said["gloo"], rel=1e-4)


def test_two_machines_with_tls_and_a_secret_file_three_times_over(tmp_path: Path) -> None:
    """Two agents, rank 0 and 1 on 127.0.0.2 and rank 2 and 3 on 127.0.0.3; nothing is left after each destroy."""
    make_certificates(tmp_path, "one", "two")
    (tmp_path / "secret").write_bytes(b"only this run knows it")
    port = str(free_port("127.0.0.2"))
    with ExitStack() as stack:
        jobs = []
        for node, (name, host) in enumerate((("one", "127.0.0.2"), ("two", "127.0.0.3"))):
            where = ("--nnodes", "2", "--node-rank", str(node), "--master-addr", "127.0.0.2", "--master-port", port)
            variables = {
                "SMOL_ADDRESS": host,
                "SMOL_SECRET_FILE": str(tmp_path / "secret"),
                "SMOL_TLS_CERT": str(tmp_path / f"{name}.pem"),
                "SMOL_TLS_KEY": str(tmp_path / f"{name}.key"),
                "SMOL_TLS_CA": str(tmp_path / "ca.pem"),
            }
            jobs.append(stack.enter_context(Job((*where, "--nproc-per-node", "2"), ["rounds"], variables)))
        assert [job.wait() for job in jobs] == [0, 0], [job.err() for job in jobs]
        assert not any("SMOL_SECRET_FILE" in job.err() for job in jobs)
        results = {**jobs[0].results(), **jobs[1].results()}
    assert sorted(results) == [0, 1, 2, 3]
    for rank, result in results.items():
        assert result["after"] == result["before"]
        assert [row["sum"] for row in result["rows"]] == [10.0] * 3
        assert [row.get("pair") for row in result["rows"]] == [2.0 if rank < 2 else None] * 3
        assert all(row["tls"] == ["TLSv1.3"] for row in result["rows"])
    assert all("127.0.0.2" in row["own"] for row in results[0]["rows"])


def told(job: Job) -> list[int]:
    """The ranks that said, when rank 1 was killed, that it was."""
    first: dict[int, str] = {}
    for line in job.out().splitlines():
        if line.startswith("result ") and '"error"' in line:
            first.setdefault(int(line.split()[1]), line)
    for line in first.values():
        assert re.search(r"PeerLostError: (rank 1 was lost: |the connection to rank 1 broke)", line), line
    return sorted(first)


def test_a_killed_rank_is_named_and_the_restart_gets_through() -> None:
    with Job((*ALONE, "--max-restarts", "1"), ["dies"]) as job:
        assert job.wait() == 0, job.err()
        assert told(job) == [0, 2]
        assert job.results() == {rank: {"sum": 6.0, "generation": 1} for rank in range(3)}


def test_a_restart_on_two_machines() -> None:
    """The agent of the other machine restarts its ranks too, and may count that as a restart or not."""
    meeting = f"127.0.0.2:{free_port('127.0.0.2')}"
    options = ("--nnodes", "2", "--nproc-per-node", "2", "--max-restarts", "2", "--monitor-interval", "1")
    elastic = ("--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-id", "test")
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(Job((*options, *elastic, "--local-addr", host), ["dies"], {"SMOL_ADDRESS": host}))
            for host in ("127.0.0.2", "127.0.0.3")
        ]
        assert [job.wait() for job in jobs] == [0, 0], [job.err() for job in jobs]
        results = {**jobs[0].results(), **jobs[1].results()}
        assert [told(job) for job in jobs] == [[0], [2, 3]]
    assert sorted(results) == [0, 1, 2, 3]
    for result in results.values():
        assert result["sum"] == 10.0
        assert result["generation"] >= 1


def test_a_rank_that_died_before_it_initialised_does_not_confuse_the_restart() -> None:
    with Job((*ALONE[:3], "--max-restarts", "1"), ["early"]) as job:
        assert job.wait() == 0, job.err()
        assert job.results() == {0: 6.0, 1: 6.0, 2: 6.0}


def test_a_script_that_does_not_destroy_its_group_ends_in_silence() -> None:
    with Job(ALONE[:3], ["forgets"]) as job:
        assert job.wait() == 0, job.err()
        assert job.results() == {0: 6.0, 1: 6.0, 2: 6.0}
        assert "Traceback" not in job.err()
        assert "smol" not in job.err()


def test_an_exception_of_one_rank_is_told_to_the_others() -> None:
    with Job(ALONE, ["raises"]) as job:
        assert job.wait() != 0
        reason = "rank 1 gave up: ArithmeticError: the numbers went wrong"
        results = job.results()
        assert sorted(results) == [0, 2], job.err()
        assert all(text.startswith(reason) for text in results.values()), results
