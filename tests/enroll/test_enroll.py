"""First contact, against a host that takes a password and against a real sshd."""

from __future__ import annotations

import getpass
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from smolcluster.cli import main

from .password_host import PASSWORD, USER, PasswordHost, host_key

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")


@dataclass
class Person:
    """Calls enroll as somebody with an own empty ~/.ssh, the password on stdin."""

    home: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    @property
    def key(self) -> Path:
        return self.home / ".ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.home / ".ssh" / "known_hosts"

    def enroll(self, *arguments: str, stdin: str = PASSWORD + "\n") -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self.monkeypatch.setenv("COLUMNS", "200")
        files = ("--key", str(self.key), "--known-hosts", str(self.known_hosts))
        code = main(["enroll", *arguments, *files])
        said = self.capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path / "me", monkeypatch, capsys)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PasswordHost]:
    home = tmp_path / "there"
    home.mkdir()
    with PasswordHost(home, host_key(tmp_path / "host-key")).listening() as made:
        yield made


def where(host: PasswordHost) -> tuple[str, ...]:
    return (f"{USER}@127.0.0.1", "--port", str(host.port))


def test_first_contact_makes_a_key_and_copies_it(person: Person, host: PasswordHost) -> None:
    code, out, err = person.enroll(*where(host), "--yes")
    assert code == 0, err
    assert "key added" in out
    assert host.key.fingerprint in out
    assert host.key.fingerprint in err
    assert person.key.with_name("id_ed25519.pub").read_text() == host.authorized_keys.read_text()
    assert stat.S_IMODE(person.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.authorized_keys.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.authorized_keys.parent.stat().st_mode) == 0o700
    assert host.passwords == [PASSWORD]
    assert PASSWORD not in out + err


def test_second_time_asks_and_changes_nothing(person: Person, host: PasswordHost) -> None:
    person.enroll(*where(host), "--yes")
    before = host.authorized_keys.read_text(), person.known_hosts.read_text()
    code, out, _ = person.enroll(*where(host), stdin="")
    assert code == 0
    assert "was enrolled already" in out
    assert (host.authorized_keys.read_text(), person.known_hosts.read_text()) == before
    assert host.passwords == [PASSWORD]


def test_other_keys_stay_and_a_last_line_without_an_end_too(person: Person, host: PasswordHost) -> None:
    host.authorized_keys.parent.mkdir(parents=True)
    host.authorized_keys.write_text("ssh-ed25519 AAAAother other@there")
    assert person.enroll(*where(host), "--yes")[0] == 0
    lines = host.authorized_keys.read_text().splitlines()
    assert lines[0] == "ssh-ed25519 AAAAother other@there"
    assert len(lines) == 2


def test_key_that_is_there_but_not_taken_is_said(person: Person, host: PasswordHost) -> None:
    host.takes_keys = False
    code, out, err = person.enroll(*where(host), "--yes")
    assert code == 3
    assert "the key was added, but sshd does not take it" in " ".join(out.split())
    assert f"not enrolled: {USER}@127.0.0.1:{host.port}" in err
    person.enroll(*where(host), "--yes")
    assert len(host.authorized_keys.read_text().splitlines()) == 1


def test_unconfirmed_host_gets_no_password(person: Person, host: PasswordHost) -> None:
    code, out, err = person.enroll(*where(host))
    assert code == 3
    assert "was not confirmed" in out
    assert "--yes" in err
    assert host.passwords == []
    assert not person.key.parent.exists(), "nothing was made for a host that is not trusted"


def test_no_key_is_made_when_no_host_answers(person: Person, host: PasswordHost) -> None:
    code, _, err = person.enroll(f"{USER}@127.0.0.9", "--port", str(host.port), "--yes")
    assert code == 3
    assert "made a new key" not in err
    assert not person.key.parent.exists()


def test_changed_host_key_is_refused(person: Person, host: PasswordHost, tmp_path: Path) -> None:
    other = host_key(tmp_path / "other-key")
    person.known_hosts.parent.mkdir(parents=True)
    person.known_hosts.write_text(f"[127.0.0.1]:{host.port} {other.get_name()} {other.get_base64()}\n")
    code, out, _ = person.enroll(*where(host), "--yes")
    assert code == 3
    assert "CHANGED" in out
    assert other.fingerprint in out
    assert "ssh-keygen -f" in out
    assert host.passwords == []


def test_broken_lines_and_markers_of_known_hosts_are_passed_over(person: Person, host: PasswordHost) -> None:
    person.known_hosts.parent.mkdir(parents=True)
    person.known_hosts.write_text("garbage\n@revoked * ssh-ed25519 AAAA\n# words\n[x]:1 ssh-ed25519 %%%")
    assert person.enroll(*where(host), "--yes")[0] == 0
    assert person.known_hosts.read_text().splitlines()[-1].startswith(f"[127.0.0.1]:{host.port} ssh-ed25519 ")


def test_wrong_password(person: Person, host: PasswordHost) -> None:
    code, out, _ = person.enroll(*where(host), "--yes", stdin="guess\n")
    assert code == 3
    assert f"wrong password for {USER}" in out
    assert not host.authorized_keys.exists()


def test_host_that_takes_no_passwords(person: Person, host: PasswordHost) -> None:
    host.methods = ("publickey",)
    code, out, _ = person.enroll(*where(host), "--yes")
    assert code == 3
    assert "it takes no passwords (only publickey)" in out


def test_one_bad_host_does_not_spoil_the_others(person: Person, host: PasswordHost) -> None:
    code, out, err = person.enroll(f"{USER}@127.0.0.9", *where(host), "--yes")
    assert code == 3
    assert "nothing listens on port" in out
    assert "key added" in out
    assert err.endswith(f"not enrolled: {USER}@127.0.0.9:{host.port}\n")


def test_something_that_is_no_sshd(person: Person) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 50)

    thread = threading.Thread(target=greet)
    thread.start()
    code, out, err = person.enroll(f"{USER}@127.0.0.1", "--port", str(server.getsockname()[1]), "--yes")
    thread.join(5)
    server.close()
    assert code == 3
    assert "the SSH connection failed" in out
    assert "Traceback" not in err


def test_without_paramiko_the_way_out_is_said(
    person: Person, monkeypatch: pytest.MonkeyPatch, host: PasswordHost
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = person.enroll(*where(host))
    assert code == 2
    assert "pip install 'smolcluster[ssh]'" in err


def test_own_key_with_a_passphrase_and_no_agent(
    person: Person, host: PasswordHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    person.key.parent.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", person.key], check=True)
    code, _, err = person.enroll(*where(host), "--yes")
    assert code == 2
    assert "needs its passphrase" in err
    assert not host.transports, "said before any host is asked"


@dataclass
class Sshd:
    address: str
    port: int
    log: Path


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A real sshd of this test's own on 127.0.0.2, which takes the keys in <tmp>/there/.ssh/authorized_keys."""
    if SSHD is None:
        pytest.skip("there is no sshd here (Debian: openssh-server)")
    lead: list[str] = []
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        # Root's sshd wants this folder. It gets one in a mount namespace of its own: the machine's /run stays as it is.
        lead = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && mkdir /run/sshd && exec "$@"', "sh"]
        if shutil.which("unshare") is None or subprocess.run([*lead, "true"], capture_output=True).returncode != 0:
            pytest.skip("sshd run by root wants /run/sshd, and no mount namespace can be had here to give it one")
    (tmp_path / "there").mkdir(exist_ok=True)
    host_key(tmp_path / "sshd-key")
    with socket.create_server(("127.0.0.2", 0)) as finder:
        port = finder.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.2\nPort {port}\nHostKey {tmp_path}/sshd-key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/there/.ssh/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    log = tmp_path / "sshd.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*lead, SSHD, "-D", "-e", "-f", config], stdout=output, stderr=output)
    try:
        deadline, pause = time.monotonic() + 10, threading.Event()
        while b"Server listening" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            pause.wait(0.02)
        yield Sshd("127.0.0.2", port, log)
    finally:
        process.terminate()
        process.wait(5)


def test_key_copied_with_a_password_logs_in_on_a_real_sshd(person: Person, host: PasswordHost, sshd: Sshd) -> None:
    me = getpass.getuser()
    before, out, _ = person.enroll(f"{me}@{sshd.address}", "--port", str(sshd.port), "--yes")
    assert before == 3
    assert "it takes no passwords" in out
    assert person.enroll(*where(host), "--yes")[0] == 0
    code, out, _ = person.enroll(f"{me}@{sshd.address}", "--port", str(sshd.port), stdin="")
    assert code == 0, sshd.log.read_text()
    assert "was enrolled already" in out


def test_openssh_accepts_our_key_and_known_hosts(person: Person, host: PasswordHost, sshd: Sshd) -> None:
    me = getpass.getuser()
    person.enroll(*where(host), "--yes")
    person.enroll(f"{me}@{sshd.address}", "--port", str(sshd.port), "--yes")
    options = {
        "UserKnownHostsFile": person.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command = [
        "ssh",
        "-F",
        "/dev/null",
        "-i",
        person.key,
        "-p",
        str(sshd.port),
        *flags,
        f"{me}@{sshd.address}",
        "echo in",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "in\n", done.stderr


def test_at_a_terminal_the_person_confirms_and_types_the_password_once(
    person: Person, host: PasswordHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or PASSWORD)
    monkeypatch.setattr("sys.stdin", Terminal("y\ny\n"))
    files = ("--key", str(person.key), "--known-hosts", str(person.known_hosts), "--user", USER)
    # Two names of one host: two host keys to confirm, one password.
    code = main(["enroll", "127.0.0.1", "localhost", "--port", str(host.port), *files])
    out, err = person.capsys.readouterr()
    assert code == 0, out + err
    assert asked == [f"Password of {USER} on these hosts: "]
    assert err.count("is not known here yet") == 2
    assert len(person.known_hosts.read_text().splitlines()) == 2
