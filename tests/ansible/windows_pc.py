"""A Windows PC that is none, at the other end of a real SSH: `PowerShell`, as Ansible calls it, and the SFTP server.

PowerShell cannot be had here, so nothing of ours in that language is run. What is: the real plays, Ansible's real SSH
connection and PowerShell shell, which builds these command lines and manifests, and the smolcluster that a module of
ours would call. A module's script is read for its options, which are checked as Ansible.Basic would, and for the
command it gives to smolcluster. Any other module is refused: a Windows PC runs no Python for Ansible.

Outside it has paths of Windows (C:\\Users\\win\\...), with backslashes where Windows would say them; inside they are
those of HOME. `python windows_pc.py powershell ARGUMENTS` and `python windows_pc.py sftp`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from powershell_options import options_of

PROFILE = "C:\\Users\\win"
HOME = os.environ.get("HOME", "")
SFTP_SERVER = "/usr/lib/openssh/sftp-server"
_QUOTED = re.compile(r"'((?:[^']|'')*)'")


def main() -> int:
    if sys.argv[1] == "sftp":
        return sftp()
    encoded = sys.argv[sys.argv.index("-EncodedCommand") + 1]
    script = base64.b64decode(encoded).decode("utf-16-le")
    if "$codeJson" in script:
        return manifest(sys.stdin.read())
    if found := re.search(r"^Remove-Item '(.*)' -Force;$", script, re.MULTILINE):
        Path(inside(found[1])).unlink()
        return 0
    return called(script)


def manifest(text: str) -> int:
    """What Ansible has PowerShell do: make a folder, or run a module."""
    first, _, rest = text.partition("\n\0\0\0\0\n")
    if json.loads(first)["name"] != "exec_wrapper":
        raise SystemExit(f"not known here: {first[:200]}")
    told = json.loads(rest)
    action = told["actions"][-1]
    if action["name"] == "powershell_mkdtemp.ps1":
        raise SystemExit("the roles have no need of a temporary folder")
    assert action["name"] == "module_wrapper.ps1", action["name"]
    name = action["params"]["Script"]
    (given,) = (each["Value"] for each in action["params"]["Variables"] if each["Name"] == "complex_args")
    arguments = {key: value for key, value in given.items() if not key.startswith("_ansible")}
    ours = name.removeprefix("ansible.legacy.")
    if not ours.startswith("smolcluster_"):
        print(json.dumps({"failed": True, "msg": f"{name} does not run on Windows"}))
        return 1
    assert action["params"]["CSharpModules"] == ["Ansible.Basic.cs"]
    assert "Ansible.ModuleUtils.Smolcluster.psm1" in action["params"]["PowerShellModules"]
    script = base64.b64decode(told["scripts"][name]["script"]).decode()
    answer = module(script, arguments)
    note(ours, arguments)
    print(json.dumps(answer))
    return int(bool(answer.get("failed")))


def module(script: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Check the options as the script declares them, and ask smolcluster what the script would."""
    spec = options_of(script)
    if problem := spec.problem(arguments):
        return {"failed": True, "msg": problem}
    options = {key: value for key, value in spec.filled(arguments).items() if key != "python"}
    command = re.search(r"^Invoke-Smolcluster -Module \$module -Command '(\w+)'$", script, re.MULTILINE)
    assert command, script
    done = subprocess.run(
        [inside(arguments["python"]), "-X", "utf8", "-m", "smolcluster", "job", command[1]],
        input=json.dumps(inside(options)).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        return {"failed": True, "msg": outside(done.stderr.decode().strip())}
    answer: dict[str, Any] = outside(json.loads(done.stdout))
    return answer


def called(script: str) -> int:
    """A program called by name, as the action plugin `follow` does: `& PROGRAM 'word' ...`, then its exit code."""
    lines = [line for line in script.splitlines() if line.startswith("& ")]
    assert len(lines) == 1, script
    assert script.rstrip().endswith("exit $LASTEXITCODE"), script
    words = [word.replace("''", "'") for word in _QUOTED.findall(lines[0])]
    if words[0] == "UserProfile":
        words[:2] = [PROFILE + words[1]]
    note("command", words)
    done = subprocess.run([inside(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode == 0:
        print(json.dumps(outside(json.loads(done.stdout))))
    sys.stderr.write(outside(done.stderr.decode()))
    return done.returncode


def note(what: str, arguments: object) -> None:
    """One line for the test."""
    with Path(HOME, "played.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps([what, arguments]) + "\n")


def inside(value: Any) -> Any:
    """Values with this PC's paths as those of the machine it is played on."""
    if isinstance(value, dict):
        return {key: inside(each) if key != "node_config" else config(each) for key, each in value.items()}
    if isinstance(value, list):
        return [inside(each) for each in value]
    if isinstance(value, str) and re.match(r"~[\\/]", value):
        return HOME + value[1:].replace("\\", "/")
    if isinstance(value, str) and value.startswith(PROFILE):
        return HOME + value.removeprefix(PROFILE).replace("\\", "/")
    assert not (isinstance(value, str) and "C:" in value), value
    return value


def config(text: str) -> str:
    """The same in node.yaml, where backslashes are a text's."""
    return yaml.safe_dump(inside(yaml.safe_load(text)), sort_keys=False)


def outside(value: Any) -> Any:
    """The other way; within a text, wherever one stands."""
    if isinstance(value, dict):
        return {key: outside(each) for key, each in value.items()}
    if isinstance(value, list):
        return [outside(each) for each in value]
    if isinstance(value, str):
        return re.sub(re.escape(HOME) + r"[^\s'\"]*", lambda found: to_windows(found[0]), value)
    return value


def to_windows(path: str) -> str:
    return PROFILE + path.removeprefix(HOME).replace("/", "\\")


# SFTP, version 3: a request is its length, type, number and, where it names a file, the path.
_WITH_PATH = {3, 7, 9, 11, 13, 14, 15, 16, 17, 18}


def sftp() -> int:
    """The system's own SFTP server, which is told the paths of this machine. Windows' calls a drive /C:/."""
    server = subprocess.Popen([SFTP_SERVER], stdin=subprocess.PIPE)
    assert server.stdin is not None
    threading.Thread(target=server.wait, daemon=True).start()
    while (packet := read_packet(sys.stdin.buffer)) is not None:
        if packet[0] in _WITH_PATH:
            (size,) = struct.unpack_from(">I", packet, 5)
            path = packet[9 : 9 + size].decode()
            if path.startswith("/C:/"):
                path = inside(path[1:].replace("/", "\\"))
            packet = packet[:5] + struct.pack(">I", len(path.encode())) + path.encode() + packet[9 + size :]
        server.stdin.write(struct.pack(">I", len(packet)) + packet)
        server.stdin.flush()
    server.stdin.close()
    return server.wait()


def read_packet(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(struct.unpack(">I", head)[0])


if __name__ == "__main__":
    sys.exit(main())
