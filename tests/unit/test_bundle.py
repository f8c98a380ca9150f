"""`report [RUN] --bundle FILE`: what it holds, and that of secrets planted everywhere none gets in."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from smolcluster.cli import main
from smolcluster.doctor.between import Way
from smolcluster.doctor.machines import Machine
from smolcluster.doctor.report import Check
from smolcluster.observe.about import about as about_here
from smolcluster.observe.bundle import entries_of
from smolcluster.plan.types import plan_of
from smolcluster.provision.report import Failure, Setup
from smolcluster.provision.report import Machine as SetUp
from smolcluster.runtime.newrun import fill_folder
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from tests.jobs.node import make_plan

# Each is looked for, word for word, in all that is written.
PLANTED = (
    "s3cr3t-of-the-run", "the-api-key-of-it", "control-token-1", "hunter2", "hf_plantedplantedplanted", "Very Private",
    "MIIEvplanted", "0123456789abcdef0123456789abcdef01234567", "annabel", "kitchen-mac", "kitchen-pi", "attic-nas",
    "cellar-pi", "books-own-name", "garden-alias", "gardener",
    "192.168.178", "2001:db8", "de:ad:be:ef", "values-of-variables", "prompt of a person", "diary.sqlite",
)  # fmt: skip


def check_of(names: Sequence[str], counts: str) -> Check:
    """What check.yml writes down of machines that it could not reach."""
    return Check(
        time="2026-11-29T13:00Z", cluster="home", counts=counts,
        machines=tuple(Machine(name=name, kind="linux", why_not=f"{name} is off") for name in names), findings=(),
        measured=None, strategy="fsdp", predictions=(), alone=None, serving=None, gains=(),
    )  # fmt: skip


def setup_of(message: str) -> Setup:
    """What setup.yml writes down of a machine on which a task failed. Its own name is not the inventory's."""
    failed = SetUp(
        name="kitchen-mac", kind="macos", address="garden-alias", user="gardener", hostname="books-own-name.local",
        reached=True, why_not="", well=False, failed=Failure(task="Install smolcluster", message=message),
        environment=None,
    )  # fmt: skip
    return Setup(time="2026-11-29T11:00:00Z", smolcluster="0.9", tags=("all",), machines=(failed,))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "run-1")
    plan = make_plan("kitchen-mac", ("run", "run"), listen=("192.168.178.20",))
    data = plan.run.data.model_copy(update={"path": "/home/annabel/Very Private/book.txt"})
    plan = plan.model_copy(update={"run": plan.run.model_copy(update={"data": data, "project_name": "annabel"})})
    plan = plan.model_copy(update={"notes": ("kitchen-pi.local at 192.168.178.21 has no key: hunter2",)})
    fill_folder(folder, plan.to_json())
    write_atomic(folder.path / "secret", "s3cr3t-of-the-run")
    write_atomic(folder.path / "api_key", "the-api-key-of-it")
    node = folder.node("kitchen-mac")
    write_atomic(folder.control("kitchen-mac"), json.dumps({"port": 4711, "token": "control-token-1"}))
    write_atomic(node / "node.yaml", "secret_file: /home/annabel/hunter2\n")
    write_atomic(node / "ca.key", "-----BEGIN PRIVATE KEY-----\nMIIEvplanted\n-----END PRIVATE KEY-----\n")
    write_atomic(node / "diary.sqlite", "diary.sqlite")
    told = {"schema": 1, "reason": "annabel@kitchen-pi said password=hunter2", "token": "hunter2"}
    write_atomic(folder.summary, json.dumps(told))
    write_atomic(folder.job_state("kitchen-mac"), json.dumps({"node": "kitchen-mac", "authorization": "hunter2"}))
    log = (
        "it dials kitchen-pi.local (192.168.178.21, 2001:db8::17, de:ad:be:ef:00:01) as annabel\n"
        "s3cr3t-of-the-run the-api-key-of-it control-token-1 hf_plantedplantedplanted\n"
        "wandb: 0123456789abcdef0123456789abcdef01234567\n"
        "SSH_AUTH=values-of-variables PATH=values-of-variables\n"
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEvplanted\n-----END RSA PRIVATE KEY-----\n"
        "RuntimeError: bad things at /Users/annabel/Very-Private/train.py:17\n"
    )
    for rank in (0, 1):
        write_atomic(folder.log("kitchen-mac", rank), log)
        lines = [json.dumps({"step": step, "loss": 1.0 / step, "time": step}) for step in range(1, 3001)]
        lines.insert(1500, json.dumps({"step": 1500, "peer": 1, "mbps": 900.0}))
        write_atomic(folder.metrics("kitchen-mac", rank), "\n".join([*lines, '{"torn": ']))
        write_atomic(folder.requests("kitchen-mac", rank), "prompt of a person\n")
    write_atomic(folder.supervisor_log("kitchen-mac"), "x" * 300_000 + " hunter2\n" + log)
    network = tmp_path / "runs" / "network" / "20261129-1200" / "report.json"
    write_atomic(network, json.dumps({"pairs": [{"src": "kitchen-mac", "dst": "attic-nas", "to": "192.168.178.21"}]}))
    said = (
        "pip as gardener on Books-Own-Name, called garden-alias, wrote '/Users/gardener/Very Private/x'\ntoken: hunter2"
    )
    write_atomic(
        tmp_path / "runs" / "setup" / "20261129-1100" / "setup.json", setup_of(said).model_dump_json(by_alias=True)
    )
    for day, counts in (("20261128-1200", "an older one"), ("20261129-1300", "the newest")):
        where = tmp_path / "runs" / "check" / day / "check.json"
        write_atomic(where, check_of(("kitchen-mac", "cellar-pi"), counts).model_dump_json(by_alias=True))
    return folder


def written(run: RunFolder, tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "out.tar.gz"
    assert main(["report", str(run.path), "--bundle", str(file)]) == 0
    return members(file)


def members(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        return {member.name: archive.extractfile(member).read().decode() for member in archive.getmembers()}  # type: ignore[union-attr]


def test_of_secrets_planted_everywhere_none_gets_in(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    monkeypatch.setenv("PLANTED", "values-of-variables")
    found = written(run, tmp_path)
    told = "".join([*found, *found.values(), capsys.readouterr().out.partition("written:")[0]])
    assert [word for word in PLANTED if word.lower() in told.lower()] == []
    assert socket.gethostname() not in told or socket.gethostname() in ("localhost", "host1")
    assert os.fspath(Path.home()) not in told


def test_what_helps_is_there_and_is_shown_before(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = written(run, tmp_path)
    under = "smolcluster-report/"
    names = [name.removeprefix(under) for name in found]
    ranks = [f"nodes/node1/rank-{rank}/{name}" for rank in (0, 1) for name in ("log.txt", "metrics.jsonl")]
    assert names == [
        "about.json", "plan.json", "summary.json", "nodes/node1/job.json", "nodes/node1/supervisor.txt", *ranks,
        "setup.json", "network.json", "check.json",
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert all(name in said for name in names)
    assert said.index("check.json") < said.index("written: ")
    about = json.loads(found[f"{under}about.json"])
    assert about["memory_mb"] > 0
    assert "torch" in about["packages"]
    assert set(about) >= {"smolcluster", "python", "system", "machine", "processor", "cores"}
    check = Check.model_validate_json(found[f"{under}check.json"])
    assert (check.counts, [one.name for one in check.machines]) == ("the newest", ["node1", "node3"])
    assert check.machines[1].why_not == "node3 is off"
    plan = json.loads(found[f"{under}plan.json"])
    assert plan["run"]["data"]["path"] == "~/.../book.txt"
    assert plan["ranks"][0]["listen"] == [plan["ranks"][1]["listen"][0]] == ["net1.1"]
    assert plan["notes"] == ["host4.local at net1.2 has no key: <secret>"]
    log = found[f"{under}nodes/node1/rank-0/log.txt"]
    assert "RuntimeError: bad things at ~/.../train.py:17" in log
    assert "it dials host4.local (net1.2, ip6-1, mac1) as " in log
    network = json.loads(found[f"{under}network.json"])
    assert network == {"pairs": [{"src": "node1", "dst": "node2", "to": "net1.2"}]}

    setup = Setup.model_validate_json(found[f"{under}setup.json"])
    [machine] = setup.machines
    assert (machine.name, machine.address, machine.hostname) == ("node1", "host2", "host3.local")
    assert machine.failed is not None
    assert machine.failed.task == "Install smolcluster"


def test_without_a_run_what_the_other_playbooks_left_is_sent(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    shutil.rmtree(run.path)
    file = tmp_path / "out.tar.gz"
    for left in (("setup", "network", "check"), ("setup", "check"), ("setup",)):
        for other in {"network", "check"} - set(left):
            shutil.rmtree(tmp_path / "runs" / other, ignore_errors=True)
        assert main(["report", "--bundle", str(file)]) == 0
        found = members(file)
        assert list(found) == [f"smolcluster-report/{name}.json" for name in ("about", *left)]
        told = "".join([*found.values(), capsys.readouterr().out.partition("written:")[0]])
        assert [word for word in PLANTED if word.lower() in told.lower()] == []
        file.unlink()

    # Whoever names a run means it.
    assert main(["report", "latest", "--bundle", str(file)]) == 2
    assert "latest: there is no such run" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "runs" / "setup")
    assert main(["report", "--bundle", str(file)]) == 2
    said = capsys.readouterr().err
    assert "runs: holds nothing to send: no run, and no report of setup.yml, network.yml or check.yml" in said
    assert "fix: call this where you call ansible-playbook, after one of them" in said
    assert not file.exists()

    # A check that is named is something.
    check = tmp_path / "check.json"
    check.write_text(check_of(("cellar-pi",), "named").model_dump_json(by_alias=True))
    assert main(["report", "--bundle", str(file), "--check", str(check)]) == 0
    assert list(members(file)) == ["smolcluster-report/about.json", "smolcluster-report/check.json"]


def test_a_domain_tells_whose_machines_they_are(run: RunFolder, tmp_path: Path) -> None:
    plan = make_plan("kitchen-mac", ("run", "run"), listen=("kitchen-mac.smithfamily.net",))
    ranks = tuple(one.model_copy(update={"peers": {0: "attic.tail1234.ts.net"}}) for one in plan.ranks)
    # Of this domain only a later file's URL tells.
    with run.supervisor_log("kitchen-mac").open("a") as log:
        log.write("\ncellarbox.whitefamily.net is slow\n")
    run.plan.write_text(plan.model_copy(update={"ranks": ranks}).to_json(), encoding="utf-8")
    way = Way(src="kitchen-mac", dst="cellar-pi", address="cellar-pi.jonesfamily.org", networks=("Jones-Wifi",))
    check = check_of(("kitchen-mac", "cellar-pi"), "x").model_copy(update={"ways": (way,)})
    write_atomic(tmp_path / "runs/check/20261130-1200/check.json", check.model_dump_json(by_alias=True))
    pair = {"src": "kitchen-mac", "dst": "cellar-pi", "source": "kitchen-mac.home.arpa",
            "destination": "c.brown.name.uk", "networks": ["Jones-Wifi"]}  # fmt: skip
    write_atomic(tmp_path / "runs/network/20261130-1200/report.json", json.dumps({"pairs": [pair]}))
    message = "no answer from https://ann:word@pip.smithfamily.net/simple\nfile model.safetensors of smithfamily.net"
    with run.log("kitchen-mac", 1).open("a") as log:
        log.write("\nhttps://whitefamily.net/x https://pip.whitefamily.net/x\n")
    write_atomic(tmp_path / "runs/setup/20261130-1200/setup.json", setup_of(message).model_dump_json(by_alias=True))
    found = written(run, tmp_path)
    told = "".join([*found, *found.values()]).lower()
    words = ("whitefamily", "smithfamily", "tail1234", "jones", "brown", "attic", "cellar", ".arpa", "kitchen")
    assert [word for word in words if word in told] == []
    under = "smolcluster-report/"
    plan_told = json.loads(found[f"{under}plan.json"])
    domain = plan_told["ranks"][0]["listen"][0].removeprefix("node1.")
    assert re.fullmatch(r"domain\d", domain)
    failed = json.loads(found[f"{under}setup.json"])["machines"][0]["failed"]["message"]
    assert re.fullmatch(
        rf"no answer from https://<secret>@host\d\.{domain}/simple\nfile model\.safetensors of {domain}", failed
    )
    [pair] = json.loads(found[f"{under}network.json"])["pairs"]
    [way] = json.loads(found[f"{under}check.json"])["ways"]
    assert (pair["source"], pair["networks"], way["networks"]) == ("node1.local", ["network1"], ["network1"])
    # It is a plan and a check still.
    assert plan_of(found[f"{under}plan.json"]).world_size == 2
    assert Check.model_validate_json(found[f"{under}check.json"]).ways[0].dst == "node2"


def test_memory_is_in_the_units_of_the_inventory() -> None:
    assert about_here()["memory_mb"] == psutil.virtual_memory().total >> 20


def test_metrics_are_thinned_and_each_kinds_ends_kept(run: RunFolder, tmp_path: Path) -> None:
    found = written(run, tmp_path)
    lines = [json.loads(line) for line in found["smolcluster-report/nodes/node1/rank-0/metrics.jsonl"].splitlines()]
    assert 400 < len(lines) <= 504
    assert (lines[0]["step"], lines[-1]["step"]) == (1, 3000)
    assert [line for line in lines if "mbps" in line] == [{"step": 1500, "peer": 1, "mbps": 900.0}]


def test_a_check_is_named_that_is_not_there(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    file, check = run.path.parent / "x.tar.gz", run.path.parent / "nothing.json"
    assert main(["report", str(run.path), "--bundle", str(file), "--check", str(check)]) == 2
    assert f"{check}: --check: is no file" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"{broken", "is no JSON: "),
        (b"\xff\xfe\x00", "is no JSON: "),
        (b"[" * 200_000, "is no JSON: "),
        (b"[1]", "is no JSON object"),
    ],
)
def test_a_check_is_named_that_is_none(
    run: RunFolder, capsys: pytest.CaptureFixture[str], text: bytes, what: str
) -> None:
    file, check = run.path.parent / "x.tar.gz", run.path.parent / "check.txt"
    check.write_bytes(text)
    assert main(["report", str(run.path), "--bundle", str(file), "--check", str(check)]) == 2
    said = capsys.readouterr().err
    assert f"{check}: --check: {what}" in said
    assert "fix: name a check.json of check.yml" in said
    assert not file.exists()


def test_no_run_no_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing"), "--bundle", str(tmp_path / "x.tar.gz")]) == 2
    assert not (tmp_path / "x.tar.gz").exists()


def test_a_folder_is_no_archive(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.path), "--bundle", str(tmp_path)]) == 2
    assert f"is a folder\n       fix: name a file: {tmp_path}/report.tar.gz" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, where nobody makes a folder, is Linux's")
def test_where_no_file_can_be_there_is_no_archive(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.path), "--bundle", "/proc/nope/x.tar.gz"]) == 2
    said = capsys.readouterr().err
    assert "/proc/nope/x.tar.gz: --bundle: cannot be written: No such file" in said
    assert "fix: name a file in a folder of yours" in said


def test_what_is_missing_or_broken_is_left_out(run: RunFolder) -> None:
    run.summary.write_text("{broken")
    for rank in (0, 1):
        run.log("kitchen-mac", rank).unlink()
    names = [entry.name for entry in entries_of(run, make_plan("kitchen-mac", ("run", "run")))]
    assert "summary.json" not in names
    assert not [name for name in names if name.endswith("log.txt")]
