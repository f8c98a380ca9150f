"""On a machine: say what is there, and install smolcluster into ~/.smolcluster. Standard library, Python 3.8 and newer.

    python -I - look  '{"root": "~/.smolcluster"}'      what is there, as JSON
    python -I - install '{...}'                         what plan.py decided for this machine; JSON again. @FILE is read

setup.yml sends this file's text. Nothing outside the root is touched. `runtime.json` is written last and in one step: a
root without it holds at most a half install, which is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

NOTE = "runtime.json"
# Where sent files arrive; only whole ones go on to `wheels`.
INCOMING = "incoming"
_ASK_S, _INSTALL_S = 60.0, 7200.0
# What a wheel's tags and a requirement's markers are compared with; asked of each interpreter that may do.
_QUESTION = """
import json, os, platform, struct, sys, importlib.util as find
config = __import__("sysconfig").get_config_var
print(json.dumps({
    "python": os.path.realpath(sys.executable), "version": list(sys.version_info[:3]),
    "free_threaded": bool(config("Py_GIL_DISABLED")), "bits": 8 * struct.calcsize("P"),
    "venv": find.find_spec("venv") is not None, "pip": find.find_spec("ensurepip") is not None,
    "markers": {
        "implementation_name": sys.implementation.name, "implementation_version": platform.python_version(),
        "os_name": os.name, "platform_machine": platform.machine(), "platform_release": platform.release(),
        "platform_system": platform.system(), "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "platform_python_implementation": platform.python_implementation(),
        "python_version": ".".join(platform.python_version_tuple()[:2]), "sys_platform": sys.platform,
    },
    "libc": list(platform.libc_ver()), "macos": platform.mac_ver()[0],
}))
"""


class Failed(Exception):
    """What a person reads when something here did not work."""


def look(root: Path, wish: str = "") -> dict[str, Any]:
    """What is there: interpreters that may do (or only the one that was wished for), the note of what is installed,
    wheels, the graphics card."""
    note: dict[str, Any] = {}
    # Nothing, or a half one: the same.
    with contextlib.suppress(OSError, ValueError):
        note = json.loads((root / NOTE).read_text(encoding="utf-8"))
    store = root / "wheels"
    asked = [said for said in map(ask, [Path(wish)] if wish else candidates(root)) if said]
    return {
        "schema": 1,
        "root": str(root),
        # Shims of one interpreter have names of their own.
        "interpreters": list({said["python"]: said for said in reversed(asked)}.values())[::-1],
        "note": note if isinstance(note, dict) and ask(venv_python(root)) else {},
        "wheels": {path.name: digest(path) for path in sorted(store.glob("*.whl"))},
        "cuda": has_cuda(),
        "jetson": Path("/etc/nv_tegra_release").exists(),
        "debian": shutil.which("apt-get") is not None,
        "macos": platform.mac_ver()[0],
        "free_mb": shutil.disk_usage(existing(root)).free // 2**20,
    }


def candidates(root: Path) -> list[Path]:
    """Interpreters that may be Python 3.11 or newer, the ones we would rather have first."""
    names = ["python3.12", "python3.13", "python3.11", "python3", "python"]
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    folders += ["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin"]
    if sys.platform == "darwin":
        # Apple's own is older, and where it is missing what stands for it opens a window.
        folders = [folder for folder in folders if folder != "/usr/bin"]
    found = [Path(folder, name + end) for name in names for folder in folders for end in ("", ".exe")]
    found += sorted(Path("/Library/Frameworks/Python.framework/Versions").glob("3*/bin/python3"))
    found += [*sorted((root / "python").glob("*/bin/python3")), *sorted((root / "python").glob("*/python.exe"))]
    # Where python.org's installer puts one on Windows, for one user or for all.
    for variable, below in (("LOCALAPPDATA", "Programs/Python"), ("ProgramFiles", "")):
        if os.environ.get(variable):
            found += sorted(Path(os.environ[variable], below).glob("Python3*/python.exe"))
    # Not the environment's own, which an install may remove.
    files = [path for path in found if path.is_file() and root / "venv" not in path.parents]
    return list({path.resolve(): path for path in reversed(files)}.values())[::-1]


def ask(python: Path) -> dict[str, Any]:
    """What an interpreter says of itself; nothing if it is none, or an older one."""
    try:
        done = called([str(python), "-I", "-c", _QUESTION], _ASK_S)
        said = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return said if said and tuple(said["version"]) >= (3, 11) else {}


def install(root: Path, order: dict[str, Any]) -> dict[str, Any]:
    """Make the environment that `order` asks for, and note it. Failed with the words of what refused."""
    store = root / "wheels"
    store.mkdir(parents=True, exist_ok=True)
    take_in(root / INCOMING, store, order["files"])
    note = root / NOTE
    whole = note.exists() and order["keep_venv"]
    note.unlink(missing_ok=True)
    if not whole:
        shutil.rmtree(root / "venv", ignore_errors=True)
        make_venv(root, order)
    pins = root / "constraints.txt"
    pins.write_text(order["pins"], encoding="utf-8")
    wheel = store / order["wheel"]
    extras = f"[{','.join(order['extras'])}]" if order["extras"] else ""
    source = ["--no-index", "--find-links", str(store)] if order["offline"] else order["pip_args"]
    wanted = [f"smolcluster{extras} @ {wheel.as_uri()}"]
    pip(root, order, [*source, "--constraint", str(pins), *wanted])
    # The same version with other content: pip would take it for installed.
    pip(root, order, ["--no-index", "--no-deps", "--force-reinstall", str(wheel)])
    said = trial(root)
    pins.unlink()
    write(note, json.dumps({"schema": 1, **order["note"], **said}, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(root / INCOMING, ignore_errors=True)
    return said


def take_in(incoming: Path, store: Path, files: dict[str, str]) -> None:
    """Give each sent file its place. Failed if one is not what was sent; it goes, so that it is sent again."""
    bad = []
    for name, wanted in files.items():
        there = incoming / name
        if there.exists():
            if digest(there) == wanted:
                there.replace(store / name)
            else:
                there.unlink()
        if not (store / name).exists() or digest(store / name) != wanted:
            bad.append(name)
    if bad:
        raise Failed(f"did not arrive whole: {', '.join(bad)}; call setup.yml again")


def make_venv(root: Path, order: dict[str, Any]) -> None:
    """An environment of the interpreter; with pip out of its wheel where the interpreter brings none."""
    without = ["--without-pip"] if order["pip_wheel"] else []
    run([order["python"], "-I", "-m", "venv", *without, str(root / "venv")], "Python's venv")


def pip(root: Path, order: dict[str, Any], words: list[str]) -> None:
    """`pip install` in the environment."""
    start = ["-I", "-m", "pip"] if not order["pip_wheel"] else [str(root / "wheels" / order["pip_wheel"] / "pip")]
    # Python compiles what it imports when it does; all of PyTorch and transformers takes a Pi minutes.
    words = ["--quiet", "--no-input", "--no-cache-dir", "--no-compile", *words]
    command = [str(venv_python(root)), *start, "install"]
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    if order["offline"]:
        # Nothing but the folder: no index, pins or links of this machine's own.
        environment = {key: value for key, value in environment.items() if not key.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
        environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    run([*command, *words], "pip", environment)


def trial(root: Path) -> dict[str, Any]:
    """What the new environment says of itself: an install that cannot be imported is none."""
    code = (
        "import json, smolcluster.cli, torch; smolcluster.cli.app_of();"
        " print(json.dumps([smolcluster.__version__, torch.__version__]))"
    )
    version, torch = json.loads(run([str(venv_python(root)), "-I", "-c", code], "the new environment").splitlines()[-1])
    return {"version": version, "torch": torch}


def run(command: list[str], what: str, environment: dict[str, str] | None = None) -> str:
    """A program's output. Failed with the end of its words."""
    try:
        done = called(command, _INSTALL_S, environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{what}: {error}") from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-12:]
        raise Failed(f"{what} ended with {done.returncode}:\n" + "\n".join(words))
    return done.stdout


def called(
    command: list[str], deadline_s: float, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program that has ended. Bytes that are no text in the machine's own language are replaced, never refused."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=deadline_s,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def venv_python(root: Path) -> Path:
    """The environment's interpreter."""
    return root / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has_cuda() -> bool:
    """Whether NVIDIA's driver knows a card."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        done = called([program, "-L"], _ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    while not path.exists():
        path = path.parent
    return path


def digest(path: Path) -> str:
    """A file's SHA-256."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            hashed.update(piece)
    return hashed.hexdigest()


def write(path: Path, text: str) -> None:
    """Write a file in one step."""
    new = path.with_name(f".{path.name}.part")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def main(arguments: list[str]) -> int:
    """Do one verb; JSON on stdout, a failure's words on stderr."""
    verb, given = arguments[:2]
    # Windows PowerShell loses the quotes of an argument: there it is a file.
    order = json.loads(Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given)
    root = Path(order["root"]).expanduser()
    try:
        said = look(root, order.get("python", "")) if verb == "look" else install(root, order)
    except (Failed, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({**said, "node": platform.node()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
