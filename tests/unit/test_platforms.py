"""What depends on the operating system is guarded: every module imports on all of them, and no name is used where it is
not. None of this was tried on a real Mac or Windows PC.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Programs that are sent to a Unix and run there by any Python; a Windows PC gets PowerShell instead (roles/network_*).
FOR_A_UNIX = {"smolcluster/network/carry_out.py", "smolcluster/network/probe.py"}
# Importing as if it were another system: its name, and without the modules it lacks. What comes from others is imported
# first, as they are: theirs would look for DLLs.
IMPORT = """
import importlib, importlib.abc, os, pkgutil, signal, socket, sys, types
import select, subprocess, multiprocessing, multiprocessing.connection, asyncio, ctypes, tempfile, shutil, selectors
for name in {others!r}:
    importlib.import_module(name)
lacks, names = {lacks!r}, {names!r}

class Lacking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in lacks:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

for name in lacks:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Lacking())
for module, absent in names.items():
    for name in absent:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
for name in {has!r}:
    sys.modules[name] = types.ModuleType(name)
import smolcluster
sys.platform = {platform!r}
modules = [found.name for found in pkgutil.walk_packages(smolcluster.__path__, "smolcluster.")]
failed = []
for name in modules:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{{name}}: {{type(error).__name__}}: {{error}}")
print(len(modules))
print("\\n".join(failed))
"""
OTHERS = (
    "torch", "torch.distributed", "torch.distributed.tensor", "torch.utils.data", "torch._dynamo", "numpy", "pydantic",
    "psutil", "yaml", "jinja2.sandbox", "typer",
    "rich.console", "cryptography.x509", "safetensors.torch", "tokenizers", "transformers", "fastapi", "uvicorn",
    "websockets", "prometheus_client", "matplotlib.pyplot", "paramiko", "segno", "gguf",
)  # fmt: skip
WINDOWS = {
    "has": ("msvcrt", "winreg"),
    "lacks": ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "crypt", "syslog", "curses"),
    "names": {
        "os": ("fork", "setsid", "getuid", "geteuid", "killpg", "getpgid", "O_NOFOLLOW", "O_CLOEXEC", "O_DIRECTORY"),
        "signal": ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "setitimer", "alarm"),
        "socket": ("AF_UNIX", "SO_REUSEPORT", "TCP_INFO", "TCP_USER_TIMEOUT", "MSG_NOSIGNAL", "MSG_DONTWAIT"),
        "select": ("poll", "epoll"),
    },
}
MACOS = {
    "lacks": (),
    "names": {
        "os": ("sched_getaffinity",),
        "select": ("epoll",),
        "socket": ("TCP_INFO", "TCP_USER_TIMEOUT", "SO_BINDTODEVICE"),
    },
}


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("platform", "differs"), [("win32", WINDOWS), ("darwin", MACOS), (sys.platform, {})])
def test_every_module_imports(platform: str, differs: dict[str, object]) -> None:
    about = {"has": (), "lacks": (), "names": {}} | differs
    code = IMPORT.format(others=OTHERS, platform=platform, **about)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    count, *failed = done.stdout.strip().splitlines()
    assert int(count) > 400
    assert failed == []


def mypy(platform: str, *targets: str) -> list[str]:
    """What mypy finds, told that it is that system; a cache of its own, so that both stay warm."""
    command = [sys.executable, "-m", "mypy", "--platform", platform, "--cache-dir", f".mypy_cache/{platform}", *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_mypy_tells_a_name_that_the_system_lacks(tmp_path: Path) -> None:
    file = tmp_path / "unguarded.py"
    file.write_text("import os\nimport sys\n\nif sys.platform == 'linux':\n    os.fork()\nos.getuid()\n")
    (error,) = mypy("win32", "--config-file=", str(file))
    assert 'Module has no attribute "getuid"' in error


@pytest.mark.soak  # a minute of computing each
@pytest.mark.timeout(900)
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_no_name_is_used_that_the_system_lacks(platform: str) -> None:
    found = [line for line in mypy(platform) if platform != "win32" or line.partition(":")[0] not in FOR_A_UNIX]
    assert found == []
