"""What is done on a machine: which interpreter, which wheels, which of PyTorch's builds; and what stands against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smolcluster.errors import InputError
from smolcluster.files import hash_of
from smolcluster.provision.facts import Found
from smolcluster.provision.plan import PYTHONS, Step, Wanted, decide

from .machines import found, interpreter, touch_wheels

ROOT = Path(__file__).resolve().parents[2]
PINS = "torch==2.13.0\nnumpy==2.4.6\npip==26.0\n"
_X86 = "manylinux_2_28_x86_64"
_ARM = "manylinux_2_28_aarch64"
FOLDER = {
    "torch-2.13.0-cp311-none-macosx_11_0_arm64": ["numpy>=2", 'nvidia-cudnn; sys_platform == "linux"'],
    f"torch-2.13.0+cpu-cp311-cp311-{_X86}": ["numpy>=2", 'sympy; extra == "opt"'],
    f"torch-2.13.0+cu130-cp311-cp311-{_X86}": ["numpy>=2"],
    f"torch-2.13.0-cp311-cp311-{_ARM}": ["numpy>=2"],
    "torch-2.13.0-cp311-cp311-win_amd64": ["numpy>=2"],
    "numpy-2.4.6-cp311-cp311-macosx_14_0_arm64": [],
    f"numpy-2.4.6-cp311-cp311-{_X86}": [],
    f"numpy-2.5.0-cp311-cp311-{_X86}": [],
    f"numpy-2.4.6-cp311-cp311-{_ARM}": [],
    "numpy-2.4.6-cp311-cp311-win_amd64": [],
}
KIND = {"macos": "macos", "pi": "linux", "pc": "linux", "windows": "windows"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return touch_wheels(tmp_path / "wheels", FOLDER)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "smolcluster-0.1.0-py3-none-any.whl"
    path.write_bytes(b"ours")
    return path


def wanted(kind: str, own: Path, folder: Path | None = None, **more: Any) -> Wanted:
    given = {"kind": KIND[kind], "device": "auto", "wheel": own, "pins": PINS, "folder": folder}
    return Wanted.model_validate({**given, "requirements": ("torch>=2.13",), **more})


def sent(step: Step) -> list[str]:
    return [Path(path).name for path in step.send if "smolcluster" not in path]


@pytest.mark.parametrize(
    ("kind", "cuda", "names"),
    [
        ("macos", False, ["numpy-2.4.6-cp311-cp311-macosx_14_0_arm64", "torch-2.13.0-cp311-none-macosx_11_0_arm64"]),
        ("pi", False, [f"numpy-2.4.6-cp311-cp311-{_ARM}", f"torch-2.13.0-cp311-cp311-{_ARM}"]),
        ("pc", False, [f"numpy-2.4.6-cp311-cp311-{_X86}", f"torch-2.13.0+cpu-cp311-cp311-{_X86}"]),
        ("pc", True, [f"numpy-2.4.6-cp311-cp311-{_X86}", f"torch-2.13.0+cu130-cp311-cp311-{_X86}"]),
        ("windows", False, ["numpy-2.4.6-cp311-cp311-win_amd64", "torch-2.13.0-cp311-cp311-win_amd64"]),
    ],
)  # fmt: skip
def test_each_kind_of_machine_gets_its_own_wheels_and_no_others(
    kind: str, cuda: bool, names: list[str], own: Path, folder: Path
) -> None:
    step = decide(found(interpreter(kind), cuda=cuda), wanted(kind, own, folder))
    assert step.state == "install"
    assert sent(step) == [f"{name}.whl" for name in names]
    assert step.order["files"][own.name] == hash_of(own)


def test_only_what_a_machine_lacks_is_sent(own: Path, folder: Path) -> None:
    have = folder / f"numpy-2.4.6-cp311-cp311-{_X86}.whl"
    other = {f"torch-2.13.0+cpu-cp311-cp311-{_X86}.whl": "another hash", have.name: hash_of(have)}
    step = decide(found(interpreter("pc"), wheels=other), wanted("pc", own, folder))
    assert sent(step) == [f"torch-2.13.0+cpu-cp311-cp311-{_X86}.whl"]
    assert set(step.order["files"]) == {have.name, own.name, *sent(step)}


def test_the_interpreter_is_one_for_which_the_folder_has_wheels(own: Path, folder: Path) -> None:
    newer = interpreter("pc", (3, 12, 1))
    assert decide(found(newer, interpreter("pc")), wanted("pc", own, folder)).order["python"] == "/usr/bin/python3.11"
    step = decide(found(newer), wanted("pc", own, folder))
    assert step.state == "refused"
    assert "lacks for Python 3.12.1 (linux, x86_64) there: torch 2.13.0" in step.why


def test_an_interpreter_without_pip_takes_it_from_the_folder_or_the_system(own: Path, folder: Path) -> None:
    bare = found(interpreter("pi", pip=False))
    assert decide(bare, wanted("pi", own, folder)).state == "pip"
    assert decide(bare, wanted("pi", own)).state == "pip"
    touch_wheels(folder, {"pip-26.0-py3-none-any": []})
    step = decide(bare, wanted("pi", own, folder))
    assert (step.state, step.order["pip_wheel"]) == ("install", "pip-26.0-py3-none-any.whl")
    assert "pip-26.0-py3-none-any.whl" in sent(step)


def test_what_stands_against_it(own: Path, folder: Path) -> None:
    assert decide(found(), wanted("macos", own)).state == "python"
    assert decide(found(), wanted("macos", own, python="/opt/python3.9")).state == "refused"
    assert decide(found(interpreter("pi"), jetson=True), wanted("pi", own)).state == "left"
    musl = interpreter("pc", libc=("", ""))
    assert "torch 2.13.0" in decide(found(musl), wanted("pc", own, folder)).why
    # A zip may begin with anything.
    torch = folder / f"torch-2.13.0+cpu-cp311-cp311-{_X86}.whl"
    torch.write_bytes(bytes(2 << 20) + torch.read_bytes())
    full = decide(found(interpreter("pc"), free_mb=5), wanted("pc", own, folder))
    assert (full.state, full.why) == ("refused", "5 MB are free there, and about 10 are needed")


@pytest.mark.parametrize(
    ("kind", "bits", "machine", "fix"),
    [
        ("pi", 32, "aarch64", "the 64-bit image"),
        ("windows", 32, "AMD64", "64-bit Python 3.12"),
        ("windows", 64, "ARM64", "for x86-64"),
        ("macos", 64, "x86_64", "an Intel Mac cannot take part"),
    ],
)
def test_an_interpreter_for_which_there_is_no_pytorch(
    kind: str, bits: int, machine: str, fix: str, own: Path, folder: Path
) -> None:
    unfit = interpreter(kind, (3, 12, 4), bits=bits)
    unfit = unfit.model_copy(update={"markers": {**unfit.markers, "platform_machine": machine}})
    for given in (folder, None):
        step = decide(found(unfit), wanted(kind, own, given))
        assert step.state == "refused"
        assert "for which there is no PyTorch" in step.why
        assert fix in step.why
    # Where there is another one, that is taken.
    assert decide(found(unfit, interpreter(kind)), wanted(kind, own, folder)).order["python"] == "/usr/bin/python3.11"


@pytest.mark.parametrize(("macos", "old"), [("13.6.9", True), ("11.0", True), ("14.0", False), ("26.1", False)])
def test_a_mac_whose_system_pytorch_is_not_built_for(macos: str, old: bool, own: Path) -> None:
    there = interpreter("macos", (3, 12, 4), macos=macos)
    step = decide(found(there), wanted("macos", own))
    # Where there is no Python, none is fetched either.
    bare = decide(found(macos=macos), wanted("macos", own))
    if not old:
        assert (step.state, bare.state) == ("install", "python")
        return
    assert step.why == bare.why
    assert (step.state, bare.state) == ("refused", "refused")
    assert f"it has macOS {macos}, for which there is no PyTorch\n    fix: on an Apple chip, update it to" in step.why


def test_a_mac_that_does_not_tell_its_system_is_no_old_one(own: Path) -> None:
    for macos in ("", "10.16"):
        there = interpreter("macos", (3, 12, 4), macos=macos)
        assert decide(found(there, macos=macos), wanted("macos", own)).state == "install"


def test_an_environment_is_made_of_a_python_that_all_wheels_are_there_for(own: Path) -> None:
    newer = interpreter("pc", (3, 14, 1))
    step = decide(found(newer), wanted("pc", own))
    assert (step.state, step.why) == ("python", "there is no Python from 3.11 to 3.13")
    assert decide(found(newer, interpreter("pc")), wanted("pc", own)).order["python"] == "/usr/bin/python3.11"
    # Who names one knows better.
    named = decide(found(newer), wanted("pc", own, python=newer.python))
    assert (named.state, named.order["python"]) == ("install", newer.python)
    assert (PYTHONS[0], PYTHONS[-1]) == ((3, 11), (3, 13)), "the words above"
    for tasks in ("look.yml", "windows_look.yml"):
        assert f"why: {step.why}," in (ROOT / "roles" / "runtime" / "tasks" / tasks).read_text()


def test_half_a_download_is_named(own: Path, folder: Path) -> None:
    torch = folder / f"torch-2.13.0+cpu-cp311-cp311-{_X86}.whl"
    torch.write_bytes(torch.read_bytes()[:40])
    with pytest.raises(InputError, match="is no whole wheel"):
        decide(found(interpreter("pc")), wanted("pc", own, folder))


def note_of(step: Step) -> dict[str, Any]:
    return dict(step.order["note"])


def test_a_machine_is_ready_until_something_changes(own: Path, folder: Path) -> None:
    first = decide(found(interpreter("pc")), wanted("pc", own, folder))
    assert not first.order["keep_venv"]
    there: Found = found(interpreter("pc"), note=note_of(first))
    assert decide(there, wanted("pc", own, folder)).state == "ready"
    # Where the wheels come from is no difference.
    assert decide(there, wanted("pc", own)).state == "ready"
    for change in ({"pins": PINS + "six==1\n"}, {"extras": ("hf",)}):
        step = decide(there, wanted("pc", own, folder, **change))
        assert (step.state, step.order["keep_venv"]) == ("install", True)
    # Another build of PyTorch has the same version: pip would take it for installed.
    assert not decide(there, wanted("pc", own, folder, device="cuda")).order["keep_venv"]
    own.write_bytes(b"ours, of another day")
    step = decide(there, wanted("pc", own, folder))
    assert (step.state, step.order["keep_venv"]) == ("install", True)


def test_pip_is_given_what_belongs_to_the_build(own: Path) -> None:
    given = {"pip_args": "--proxy x", "torch_cpu_args": "--extra-index-url 'a b'", "torch_cuda_args": "--cuda"}
    cpu = decide(found(interpreter("pc")), wanted("pc", own, **given))
    assert cpu.order["pip_args"] == ["--proxy", "x", "--extra-index-url", "a b"]
    assert (cpu.order["offline"], sent(cpu), cpu.notes) == (False, [], ())
    card = decide(found(interpreter("windows"), cuda=True), wanted("windows", own, **given))
    assert card.order["pip_args"] == ["--proxy", "x", "--cuda"]
    assert decide(found(interpreter("macos")), wanted("macos", own, **given)).order["pip_args"] == ["--proxy", "x"]
    for kind in ("pc", "pi"):
        (said,) = decide(found(interpreter(kind)), wanted(kind, own)).notes
        assert "several GB of CUDA" in said
    (said,) = decide(found(interpreter("windows"), cuda=True), wanted("windows", own)).notes
    assert "torch_cuda_args" in said
    assert not decide(found(interpreter("macos")), wanted("macos", own)).notes
