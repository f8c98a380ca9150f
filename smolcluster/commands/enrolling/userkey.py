"""The person's own SSH key: read, or made when there is none."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smolcluster.commands.enrolling.types import KeyFileError

if TYPE_CHECKING:
    import paramiko


@dataclass(frozen=True)
class UserKey:
    """A key that can sign. `line` is its public half as authorized_keys has it; `made` whether it is new."""

    key: paramiko.PKey
    line: str
    made: bool


def load_or_make(path: Path) -> UserKey:
    """The key in that file (or, when it needs a passphrase, in the agent); a new ed25519 key when there is no file.

    KeyFileError if it cannot be used.
    """
    made = not path.exists()
    if made:
        _make(path)
    key = _load(path)
    return UserKey(key=key, line=_public_line(path, key), made=made)


def _make(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Created with its final mode, and never over a key that appeared meanwhile.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        _public_path(path).write_text(f"{public.decode()} {_comment()}\n", encoding="utf-8")
    except OSError as error:
        raise KeyFileError(f"{path}: no key can be written here: {error.strerror}\n    fix: --key FILE") from error


def _load(path: Path) -> paramiko.PKey:
    import paramiko

    try:
        return paramiko.PKey.from_path(path)
    except (paramiko.PasswordRequiredException, TypeError) as error:
        # cryptography says TypeError for a key that needs a passphrase.
        key = _from_agent(path)
        if key is None:
            raise KeyFileError(
                f"{path} needs its passphrase.\n    fix: `ssh-add {path}` first, or name another one with --key FILE"
            ) from error
        return key
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError, OSError) as error:
        raise KeyFileError(f"{path} is no private key that can be used: {error}\n    fix: --key FILE") from error


def _from_agent(path: Path) -> paramiko.PKey | None:
    import paramiko

    try:
        blob = _public_path(path).read_text(encoding="utf-8").split()[1]
        keys = paramiko.Agent().get_keys()
    except (OSError, IndexError, paramiko.SSHException):
        return None
    return next((key for key in keys if key.get_base64() == blob), None)


def _public_line(path: Path, key: paramiko.PKey) -> str:
    comment = _comment()
    try:
        words = _public_path(path).read_text(encoding="utf-8").split(maxsplit=2)
        if len(words) == 3 and words[1] == key.get_base64():
            comment = words[2].strip()
    except OSError:
        pass
    return f"{key.get_name()} {key.get_base64()} {comment}"


def _public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _comment() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
