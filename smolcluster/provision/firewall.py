"""On a machine, as root: exceptions in the firewall that is on, and their way back. Standard library, Python 3.8.

    python -I - add    '{"note": FILE, "ports": [65432, 65531], "subnets": [...], "program": VENV_PYTHON}'
    python -I - remove '{"note": FILE}'

What was added, and nothing that was there before, is noted in FILE before it is added; `remove` takes back what stands
there. No firewall is switched on or off, and none is set up where there is none. One that is off keeps its rules for
when it is on again: ours are taken back from it, too. With "check" nothing is changed. Prints {"changed": ...,
"text": what was or would be done, "notes": what a person should know, "left": what `remove` could not take back yet}.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Dict  # noqa: UP035

MARK = "smolcluster"
_COMMAND_S = 60.0
_MAC = "/usr/libexec/ApplicationFirewall/socketfilterfw"
# Evaluated when this begins, and Python 3.8 has no dict[...].
Rule = Dict[str, Any]  # noqa: UP006


class Failed(Exception):
    """What a person reads when something here did not work."""


def called(*command: str) -> subprocess.CompletedProcess[str]:
    """A program that has ended. Failed if there is none, or it does not end."""
    # English on every machine: what the tools print is read here.
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C", "LANGUAGE": ""}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=_COMMAND_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]}: {error}") from None


def run(*command: str) -> str:
    """A program's output. Failed with its words."""
    done = called(*command)
    if done.returncode:
        raise refusal(done)
    return done.stdout


def refusal(done: subprocess.CompletedProcess[str]) -> Failed:
    """What a program said as it failed."""
    return Failed(f"{' '.join(done.args)}: {(done.stderr or done.stdout).strip() or done.returncode}")


def says(*command: str) -> str:
    """A program's output; nothing if it is not there or refuses."""
    try:
        return run(*command)
    except Failed:
        return ""


class Firewall(ABC):
    """One kind of firewall."""

    name: str

    @abstractmethod
    def on(self) -> bool:
        """Whether it is what decides here."""

    @abstractmethod
    def rules(self, order: dict[str, Any]) -> list[Rule]:
        """The exceptions that an order means here; they say how they are taken back."""

    @abstractmethod
    def there(self, rule: Rule) -> bool:
        """Whether a rule is there, whoever added it; also while the firewall is off, if it keeps its rules."""

    def unasked(self) -> str:
        """Why nobody can ask it now which rules it keeps; empty where that is possible, or it is not there at all."""
        return ""

    @abstractmethod
    def add(self, rule: Rule) -> None:
        """Add one that is not there."""

    @abstractmethod
    def remove(self, rule: Rule) -> None:
        """Take one back that is there."""


class Ufw(Firewall):
    """Ubuntu's and Raspberry Pi OS's usual one. It keeps its rules itself, and takes them back also while off."""

    name = "ufw"

    def on(self) -> bool:
        return "Status: active" in says("ufw", "status")

    def rules(self, order: dict[str, Any]) -> list[Rule]:
        first, last = order["ports"]
        return [{"kind": "ufw", "from": subnet, "ports": f"{first}:{last}"} for subnet in order["subnets"]]

    def there(self, rule: Rule) -> bool:
        if shutil.which("ufw") is None:
            return False
        wanted = f" from {rule['from']} to any port {rule['ports']} "
        # A refusal is no answer: what is taken for gone would be forgotten.
        return any(f"{line} ".find(wanted) > 0 for line in run("ufw", "show", "added").splitlines())

    def add(self, rule: Rule) -> None:
        run("ufw", "allow", *self._words(rule), "comment", MARK)

    def remove(self, rule: Rule) -> None:
        run("ufw", "delete", "allow", *self._words(rule))

    @staticmethod
    def _words(rule: Rule) -> list[str]:
        return ["proto", "tcp", "from", rule["from"], "to", "any", "port", rule["ports"]]


class Firewalld(Firewall):
    """Fedora's. A rule is added to what runs and to what is kept, which has a tool of its own while it is off."""

    name = "firewalld"

    def on(self) -> bool:
        return says("firewall-cmd", "--state").strip() == "running"

    def rules(self, order: dict[str, Any]) -> list[Rule]:
        first, last = order["ports"]
        made = []
        for subnet in order["subnets"]:
            family = "ipv6" if ":" in subnet else "ipv4"
            text = f'rule family="{family}" source address="{subnet}" port port="{first}-{last}" protocol="tcp" accept'
            made.append({"kind": "firewalld", "rule": text})
        return made

    def there(self, rule: Rule) -> bool:
        tool = ["firewall-cmd", "--permanent"] if self.on() else ["firewall-offline-cmd"]
        if shutil.which(tool[0]) is None:
            return False
        done = called(*tool, f"--query-rich-rule={rule['rule']}")
        if done.stdout.strip() not in ("yes", "no"):
            raise refusal(done)
        return done.stdout.strip() == "yes"

    def unasked(self) -> str:
        if self.on() or shutil.which("firewall-cmd") is None or shutil.which("firewall-offline-cmd"):
            return ""
        return "firewalld does not run, and firewall-offline-cmd is not there"

    def add(self, rule: Rule) -> None:
        for kept in (["--permanent"], []):
            run("firewall-cmd", *kept, f"--add-rich-rule={rule['rule']}")

    def remove(self, rule: Rule) -> None:
        commands = [["firewall-cmd", "--permanent"], ["firewall-cmd"]] if self.on() else [["firewall-offline-cmd"]]
        for command in commands:
            run(*command, f"--remove-rich-rule={rule['rule']}")


class Nft(Firewall):
    """Rules that somebody wrote by hand, or iptables over nftables: ours go before the others of each chain for what
    comes in that refuses anything. They are gone with the next boot, as such rules are until their owner keeps them."""

    name = "nftables"

    def on(self) -> bool:
        return bool(self._chains())

    def rules(self, order: dict[str, Any]) -> list[Rule]:
        first, last = order["ports"]
        return [
            {"kind": "nftables", **chain, "from": subnet, "ports": f"{first}-{last}"}
            for chain in self._chains()
            for subnet in order["subnets"]
            if chain["family"] in ("inet", "ip6" if ":" in subnet else "ip")
        ]

    def there(self, rule: Rule) -> bool:
        return bool(self._handles(rule))

    def add(self, rule: Rule) -> None:
        way = "ip6" if ":" in rule["from"] else "ip"
        words = [
            way,
            "saddr",
            rule["from"],
            "tcp",
            "dport",
            rule["ports"],
            "accept",
            "comment",
            f'"{self._comment(rule)}"',
        ]
        run("nft", "insert", "rule", rule["family"], rule["table"], rule["chain"], *words)

    def remove(self, rule: Rule) -> None:
        for handle in self._handles(rule):
            run("nft", "delete", "rule", rule["family"], rule["table"], rule["chain"], "handle", str(handle))

    @staticmethod
    def _comment(rule: Rule) -> str:
        return f"{MARK} {rule['from']} {rule['ports']}"

    def _handles(self, rule: Rule) -> list[int]:
        listed = says("nft", "--json", "--handle", "list", "chain", rule["family"], rule["table"], rule["chain"])
        entries = [entry["rule"] for entry in json.loads(listed or '{"nftables": []}')["nftables"] if "rule" in entry]
        return [entry["handle"] for entry in entries if entry.get("comment") == self._comment(rule)]

    @staticmethod
    def _chains() -> list[dict[str, str]]:
        entries = json.loads(says("nft", "--json", "list", "ruleset") or '{"nftables": []}')["nftables"]
        refusing = {
            (rule["family"], rule["table"], rule["chain"])
            for rule in (entry["rule"] for entry in entries if "rule" in entry)
            if any(word in expression for expression in rule["expr"] for word in ("drop", "reject"))
        }
        found = []
        for chain in (entry["chain"] for entry in entries if "chain" in entry):
            place = (chain["family"], chain["table"], chain["name"])
            comes_in = chain.get("hook") == "input" and chain["family"] in ("inet", "ip", "ip6")
            if comes_in and (chain.get("policy") == "drop" or place in refusing):
                found.append({"family": place[0], "table": place[1], "chain": place[2]})
        return found


class Mac(Firewall):
    """The application firewall lets programs in, not ports. It is told even while it is off: it may be switched on."""

    name = "application firewall"

    def on(self) -> bool:
        return Path(_MAC).exists()

    def rules(self, order: dict[str, Any]) -> list[Rule]:
        real = Path(order["program"]).resolve()
        # A framework's interpreter starts the program of its bundle: that is the one which listens.
        bundle = real.parents[1] / "Resources" / "Python.app"
        programs = [str(path) for path in ([real, bundle] if bundle.is_dir() else [real])]
        known = self._known()
        return [{"kind": "macos", "program": path, "before": known.get(path, "")} for path in programs]

    def there(self, rule: Rule) -> bool:
        return self._known().get(rule["program"]) == "Allow"

    def add(self, rule: Rule) -> None:
        run(_MAC, "--add", rule["program"])
        run(_MAC, "--unblockapp", rule["program"])

    def remove(self, rule: Rule) -> None:
        run(_MAC, *(["--blockapp"] if rule["before"] == "Block" else ["--remove"]), rule["program"])

    def _known(self) -> dict[str, str]:
        """Program -> Allow or Block."""
        listed = re.findall(r"^\s*\d+\s*:\s*(/.*?)\s*\n\s*\(\s*(Allow|Block)", says(_MAC, "--listapps"), re.MULTILINE)
        return dict(listed)


_KINDS: dict[str, Firewall] = {"ufw": Ufw(), "firewalld": Firewalld(), "nftables": Nft(), "macos": Mac()}


def add(order: dict[str, Any]) -> dict[str, Any]:
    """Add what is missing to the one that is on; what was added for other subnets, ports or programs goes."""
    note = Path(order["note"])
    kept = read(note)
    active = next((one for one in _KINDS.values() if one.on()), None)
    wanted = active.rules(order) if active else []
    notes = []
    if isinstance(active, Mac) and "enabled" in says(_MAC, "--getblockall").lower():
        notes.append(
            "the Mac's firewall blocks all incoming connections, whatever it was told of programs: System Settings"
        )
    # By its own kind: what is in a firewall that is off now is still wanted when it is on again.
    meant = {name: _KINDS[name].rules(order) for name in {rule["kind"] for rule in kept}}
    stale = [rule for rule in kept if not any(same(rule, each) for each in meant[rule["kind"]])]
    stuck = [rule for rule in stale if _KINDS[rule["kind"]].unasked()]
    stale = [rule for rule in stale if rule not in stuck]
    notes += [still(rule) for rule in stuck]
    missing = [rule for rule in wanted if active and not active.there(rule)]
    if isinstance(active, Nft) and missing:
        notes.append(
            "the rules of nftables last until the next boot; call setup.yml --tags firewall again, or write them down"
        )
    text = [f"{active.name}: allow {said(rule)}" for rule in missing] if active else []
    text += [f"no longer allow {said(rule)}" for rule in stale]
    if not order.get("check"):
        for rule in stale:
            take_back(rule)
        ours = [rule for rule in kept if rule not in stale]
        ours += [rule for rule in missing if not any(same(rule, each) for each in ours)]
        if ours != kept:
            write(note, ours)
        for rule in missing:
            assert active is not None
            active.add(rule)
    return {"changed": bool(text), "text": text, "notes": notes, "left": []}


def remove(order: dict[str, Any]) -> dict[str, Any]:
    """Take back all that was added, and the note. What nobody can ask after now stays noted."""
    note = Path(order["note"])
    kept = read(note)
    stuck = [rule for rule in kept if _KINDS[rule["kind"]].unasked()]
    gone = [rule for rule in kept if rule not in stuck]
    if not order.get("check"):
        for rule in gone:
            take_back(rule)
        if stuck:
            write(note, stuck)
        else:
            note.unlink(missing_ok=True)
            if note.parent.is_dir() and not any(note.parent.iterdir()):
                note.parent.rmdir()
    text, left = [f"no longer allow {said(rule)}" for rule in gone], [still(rule) for rule in stuck]
    return {"changed": bool(gone), "text": text, "notes": [], "left": left}


def take_back(rule: Rule) -> None:
    """Remove a rule, if it is still there: somebody may have removed it, or the whole firewall."""
    kind = _KINDS[rule["kind"]]
    if kind.there(rule):
        kind.remove(rule)


def still(rule: Rule) -> str:
    """What a person reads of a rule that cannot be taken back now."""
    kind = _KINDS[rule["kind"]]
    return f"{kind.name} allows {said(rule)} as soon as it is on: {kind.unasked()}"


def same(one: Rule, other: Rule) -> bool:
    """Whether two rules are the same, whatever was there before them."""
    return {**one, "before": ""} == {**other, "before": ""}


def said(rule: Rule) -> str:
    """A rule in words."""
    return rule.get("program") or rule.get("rule") or f"TCP {rule['ports']} from {rule['from']}"


def read(note: Path) -> list[Rule]:
    """The rules that are ours."""
    return list(json.loads(note.read_text(encoding="utf-8"))["rules"]) if note.exists() else []


def write(note: Path, rules: list[Rule]) -> None:
    """Note the rules in one step."""
    note.parent.mkdir(parents=True, exist_ok=True)
    new = note.with_name(f".{note.name}.part")
    new.write_text(json.dumps({"schema": 1, "rules": rules}, indent=2) + "\n", encoding="utf-8")
    new.replace(note)


def main(arguments: list[str]) -> int:
    """Do one verb; JSON on stdout, a failure's words on stderr."""
    verb, order = arguments[0], json.loads(arguments[1])
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        done = add(order) if verb == "add" else remove(order)
    except (Failed, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"schema": 1, **done}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
