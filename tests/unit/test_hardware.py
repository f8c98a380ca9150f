"""What a node's supervisor sees of its machine: from words of real systems, and from this one."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from smolcluster.doctor import look
from smolcluster.doctor.look import mac_throttled, pi_throttled, throttled
from smolcluster.jobs.hardware import HardwareWatch, Machine
from smolcluster.runtime.metricsfile import HardwareRecord
from tests.jobs.node import until

# `pmset -g therm` of an Intel Mac that is hot, of an Apple silicon one that is not, and of one that warns.
MACS = {
    "intel": (
        "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n"
        "2024-07-19 14:02:11 +0200 CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Available_CPUs \t= 8\n"
        "\tCPU_Speed_Limit \t= 62\n"
    ),
    "silicon": (
        "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n"
        "Note: No CPU power status has been recorded\n"
    ),
    "warned": "Thermal Warning Level = 2\nNote: No performance warning level has been recorded\n",
}


@pytest.mark.parametrize(
    ("name", "told"), [("intel", "clock limited to 62 %"), ("silicon", ""), ("warned", "thermal warning level 2")]
)
def test_a_macs_words(name: str, told: str) -> None:
    assert mac_throttled(MACS[name]) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("throttled=0x0\n", ""),
        ("throttled=0x50005\n", "too little voltage, throttled"),
        ("0x8\n", "soft temperature limit"),
        ("0xe0000\n", ""),  # it was, since the start, and is no longer
        ("VCHI initialization failed\n", None),
    ],
)
def test_a_raspberry_pis_words(words: str, told: str | None) -> None:
    assert pi_throttled(words) == told


@pytest.mark.parametrize("words", ["50005\n", "0x50005\n"])
def test_the_pis_kernel_is_asked_before_any_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str
) -> None:
    file = tmp_path / "soc" / "soc:firmware" / "get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text(words)

    def glob(folder: Path, pattern: str) -> list[Path]:
        assert (folder, pattern) == (Path("/sys/devices/platform"), "soc*/*firmware/get_throttled")
        return list(tmp_path.rglob("get_throttled"))

    monkeypatch.setattr(Path, "glob", glob)
    monkeypatch.setattr(look, "ask", lambda command: pytest.fail(f"asked {command}"))
    assert throttled() == "too little voltage, throttled"


def test_this_machine() -> None:
    machine = Machine(lambda: {3: os.getpid(), 4: 1 << 30})
    machine.look()
    deadline = threading.Event()
    deadline.wait(0.05)
    seen = machine.look()
    assert 0 <= seen.cpu <= 1
    assert seen.cores == os.cpu_count()
    assert 0 < seen.memory_free_mb <= seen.memory_mb
    assert list(seen.rss_mb) == [3]  # the other process is gone
    assert seen.rss_mb[3] > 10


def test_what_it_sees_is_recorded_until_it_is_closed(tmp_path: Path) -> None:
    told: list[HardwareRecord] = []
    enough = threading.Event()

    def tell(record: HardwareRecord) -> None:
        told.append(record)
        if len(told) == 3:
            enough.set()

    file = tmp_path / "hardware.jsonl"
    watch = HardwareWatch(Machine(lambda: {}), file, [tell], every_s=0.01)
    assert enough.wait(60)
    watch.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == len(told) >= 3
    assert {(line["schema"], line["kind"]) for line in lines} == {(1, "hardware")}
    assert [HardwareRecord.model_validate(line) for line in lines] == told
    watch.close()


def test_a_disk_that_refuses_ends_the_recording_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("")
    watch = HardwareWatch(Machine(lambda: {}), tmp_path / "taken" / "hardware.jsonl")
    watch._thread.join(60)
    assert "the machine's figures are not recorded any more" in caplog.text
    watch.close()


def test_the_log_says_once_what_slows_the_machine_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = iter(["", "throttled", "throttled", None, "", ""])
    over = threading.Event()

    class Fake(Machine):
        def _slowed(self) -> str | None:
            said = next(words, "")
            if said is None:
                over.set()
            return said

    looked: list[HardwareRecord] = []
    watch = HardwareWatch(Fake(lambda: {}), tmp_path / "hardware.jsonl", [looked.append], every_s=0.01)
    assert over.wait(60)
    until(lambda: len(looked) >= 6, "two more looks")
    watch.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the machine is slowed down: throttled",
        "the machine is slowed down: no longer",
    ]
