"""The inventory of a command: which one is taken when none is given, and how one that was given is named again.

with naming(inventory):
    ...     # a ConfigError's "fix: ansible-playbook setup.yml" gets the -i that this command was given
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.document import display

SHIPPED_INVENTORY = Path("inventory/local.smol.yml")
ANSIBLE_CONFIG = Path("ansible.cfg")
_CALL = re.compile(r"\bansible-playbook (?=[a-z]+\.yml)")


def default_inventory() -> Path:
    """The inventory when none is given: ./ansible.cfg's, else the shipped one here or in this package's own project."""
    named = _named_for_ansible()
    if named is not None:
        return named
    beside = Path(__file__).resolve().parents[2] / SHIPPED_INVENTORY
    for path in (SHIPPED_INVENTORY, beside):
        if path.exists():
            return path
    what = "is the inventory when none is given, and there is no such file below the current folder"
    raise ConfigError(
        [Problem(str(SHIPPED_INVENTORY), 0, "", what, "give one with -i, or run in the project's folder")]
    )


def again(text: str, inventory: Path) -> str:
    """`text` with the inventory named in each playbook that it tells to call, unless that is the one taken without -i:
    other machines would be set up, or measured, than those that this command was about.
    """
    try:
        # Not resolve(): where links lead round in a circle it fails, and that is told by whoever opens the file.
        same = os.path.realpath(default_inventory()) == os.path.realpath(inventory)
    except ConfigError:
        same = False
    return text if same else _CALL.sub(lambda _: f"ansible-playbook -i {shlex.quote(display(inventory))} ", text)


@contextmanager
def naming(inventory: Path) -> Iterator[None]:
    """What helps against a ConfigError is told with the inventory."""
    try:
        yield
    except ConfigError as error:
        raise type(error)(replace(one, fix=again(one.fix, inventory)) for one in error.problems) from error


def _named_for_ansible() -> Path | None:
    """What `inventory =` of ./ansible.cfg names; None when there is no such line."""
    if not ANSIBLE_CONFIG.is_file():
        return None
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",), strict=False)
    try:
        parser.read_string(ANSIBLE_CONFIG.read_text(encoding="utf-8-sig"))
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {str(error).splitlines()[0]}"
        raise ConfigError(
            [Problem(str(ANSIBLE_CONFIG), 0, "", what, "mend it, or give the inventory with -i")]
        ) from None
    text = parser.get("defaults", "inventory", fallback="").strip()
    if not text:
        return None
    path = Path(text).expanduser()
    if "," in text or not path.exists():
        what = f'"{text}" is several inventories' if "," in text else f'there is no file "{text}"'
        raise ConfigError(
            [Problem(str(ANSIBLE_CONFIG), 0, "inventory", what, "name one file there, or give it with -i")]
        )
    return path
