"""Text that may be shown to strangers: no secrets, and nobody's names.

What is replaced, always by the same word for the same thing within one `Anonymous`:

    machines           node1, node2 ... in the order given; other host names (*.local, this machine's) host1 ...
    domains            domain1 ...: what is after the first dot of a host's name that is known as one, or stands in a
                       URL or behind an @; those that every home has (local, home.arpa) become local; docs.python.org
                       and its like stay
    networks           network1 ..., by the inventory's names, which may be a Wi-Fi's; `wifi` and such words stay
    users              user1 ...; a home folder with what is in it ~/.../file
    IPv4 addresses     net1.1, net1.2: who shares a subnet (/24) with whom is what a network's trouble is about, so that
                       stays; loopback, and 0.0.0.0, stay as they are
    IPv6, MAC          ip6-1 ..., mac1 ...
    secrets            <secret>: known ones, and whatever looks like one: key blocks, bearer words, words=values of that
                       kind, what follows --password and its like, long words of hex or of mixed letters and digits.
                       A hash looks like one too.
    variables          NAME=value of an environment: the value

It errs to the side of replacing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from smolcluster.observe.hostnames import LOCAL_DOMAINS, PLAIN, hosts_in, is_host, is_plain, split_host

SECRET = "<secret>"  # noqa: S105 - what stands in a secret's place
# Fields whose value is a secret, whatever it looks like. Not `tokens`, `tokenizer`, `tokens_per_s`.
_HIDDEN_WORD = (
    r"(?:secret|token|password|passwd|(?<=[_-])pass|pwd|passphrase|credential|authorization|cookie"
    r"|api[_-]?key|private[_-]?key|key|onetime)"
)
_SECRET_FIELD = re.compile(rf"(?i)(?:^|[_\-.]){_HIDDEN_WORD}s?(?:_file)?$")
_COUNTS = re.compile(r"(?i)tokens$")

_BLOCKS = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
_SSH_KEYS = re.compile(r"\b(?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-\S+) +[A-Za-z0-9+/=]{20,}(?: +\S+)?")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_ASSIGNED = re.compile(rf"(?i)([\"']?\b[\w.-]*{_HIDDEN_WORD}\b[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&)}}\]]+)")
# --password hunter2, also as a list of words: ['--password', 'hunter2']. What only speaks of a flag stays.
# --ask-pass and its like take no value.
_FLAG_WORD = rf"(?<![\w-])--?(?!ask-)(?:[A-Za-z][\w-]*[_-])?{_HIDDEN_WORD.replace('(?<=[_-])pass', 'pass')}"
_FLAG = re.compile(
    rf"(?i)({_FLAG_WORD}[\"']?,?[ \t]+)(?!(?:is|are|was|has|needs|and|or|to|for|of|with|in|must|may|which|that|from)\b)"
    # Nor a word that stands for one (--key FILE), nor where a key lies.
    r"(?!-)(?![\"']?[~/][\w./-]*\.(?:pem|key|crt|txt|json)\b)(?!(?-i:FILE|PATH|NAME|KEY|TOKEN|PASSWORD|VALUE|WORD)\b)"
    r"(\"[^\"]*\"|'[^']*'|[^\s\"']\S*)"
)
_FLAG_ALONE = re.compile(rf"(?i){_FLAG_WORD}")
_USER_AND_WORD = re.compile(
    r"(?<![\w-])((?:-u|--user)[\"']?,?\s+[\"']?(?![A-Za-z]:[\\/])[^\s:\"']+:)(?!\d+\b)[^\s\"']+"
)
_SSID = re.compile(r"(?i)(\bE?SSID[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\n,;}\])]+)")
_VARIABLE = re.compile(r"(?m)(^|[\s\"'])([A-Z][A-Z0-9]*_?[A-Z0-9_]{2,}=)([^\s\"']+)")
_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@")
# hf_..., sk-..., ghp_..., xoxb-..., AKIA..., eyJ... and other words nobody could guess.
_PREFIXED = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[a-z]-|AKIA|ASIA|eyJ|ya29\.)[A-Za-z0-9._-]{8,}")
_LONG = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z0-9+=]*[0-9])(?=[A-Za-z0-9+=]*[A-Za-z])[A-Za-z0-9+]{32,}={0,2}")

# A word of letters of both sizes and digits, with the marks of base64 in URLs: nobody's name of a thing.
_MIXED = re.compile(
    r"(?<![A-Za-z0-9_-])(?=[\w+=-]*[0-9])(?=[\w+=-]*[a-z])(?=[\w+=-]*[A-Z])[A-Za-z0-9_+=-]{24,}(?![A-Za-z0-9_-])"
)
_END = r"\s\"':,;)"
_HOME = re.compile(rf"(?:/home/|/Users/|/var/home/)[^/{_END}]+(?P<rest>(?:/+[^/{_END}]+)*)")
# A value that is a path as a whole, or a path in quotes, may hold blanks.
_WHOLE_HOME = re.compile(r"(?:/home/|/Users/|/var/home/)[^/\n]+(?P<rest>(?:/+[^/\n]+)*)/?")
_QUOTED_HOME = re.compile(rf"(?P<quote>[\"'])(?P<path>{_WHOLE_HOME.pattern.replace('?P<rest>', '')})(?P=quote)")
# On Windows names may hold blanks; a part is followed by another one then.
_WINDOWS_HOME = re.compile(
    r"[A-Za-z]:[\\/]+Users[\\/]+(?:[^\\/:*?\"<>|\r\n]+(?=[\\/])|[^\s\\/:*?\"<>|]+)"
    r"(?P<rest>(?:[\\/]+(?:[^\\/:*?\"<>|\r\n]+(?=[\\/])|[^\s\\/:*?\"<>|]+))*)"
)
_ROOT = re.compile(r"(?<![\w/])/root(?P<rest>(?:/[^/\s\"':,;)]+)*)(?![\w-])")
_AT = re.compile(r"\b([a-z_][a-z0-9_.-]*)@([A-Za-z0-9][A-Za-z0-9-]*)")
_MAC = re.compile(r"(?i)(?<![0-9a-f:.-])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![0-9a-f:-])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?i)(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:%\w+)?(?![\w:])")
_LOCAL = re.compile(rf"(?i)\b([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\.(?:{'|'.join(map(re.escape, LOCAL_DOMAINS))})\b")


def without_secrets(text: str) -> str:
    """The text without what looks like a secret; names and addresses stay. For what is kept here and sent nowhere."""
    text = _BLOCKS.sub(SECRET, text)
    text = _SSH_KEYS.sub(SECRET, text)
    text = _IN_URL.sub(rf"\1{SECRET}@", text)
    text = _BEARER.sub(rf"\1 {SECRET}", text)
    text = _ASSIGNED.sub(rf"\1{SECRET}", text)
    text = _FLAG.sub(rf"\1{SECRET}", text)
    text = _USER_AND_WORD.sub(rf"\1{SECRET}", text)
    return _PREFIXED.sub(SECRET, text)


class Anonymous:
    """Replaces. `secrets` are known ones, word for word; `nodes`, `hosts`, `users`, `networks` are names to look for.

    A host may have its domain (mini1.smith.net): that is looked for too, with whatever machine is in it.
    """

    def __init__(
        self,
        nodes: Iterable[str] = (),
        hosts: Iterable[str] = (),
        users: Iterable[str] = (),
        secrets: Iterable[str] = (),
        networks: Iterable[str] = (),
    ) -> None:
        self._secrets = sorted((one for one in secrets if len(one) >= 6), key=len, reverse=True)
        self._said: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._domains: dict[str, str] = {}
        self._names = {name: self._word("node", name) for name in dict.fromkeys(nodes)}
        # `root` and `pi` say nothing of anybody, and are words of their own in many a line.
        said_already = {*self._names, "root", "pi", ""}
        self._names |= {name: self._word("user", name) for name in dict.fromkeys(users) if name not in said_already}
        for name in hosts:
            self._know_host(name)
        unsaid = (name for name in dict.fromkeys(networks) if not is_plain(name) and name not in self._names)
        self._names |= {name: self._word("network", name) for name in unsaid}
        self._look_for_names()

    def learn(self, text: str) -> None:
        """Look for names of machines that stand there as such (ann@mac, mac.local), to know them where they do not."""
        # A name before the @ in a URL says nothing of what is behind it: that may be anybody's.
        plain = _IN_URL.sub(r"\1", text)
        said = [found[2] for found in _AT.finditer(plain)] + [found[1] for found in _LOCAL.finditer(text)]
        for name in dict.fromkeys(said):
            known = {one.lower() for one in self._names}
            if len(name) > 2 and name.lower() not in PLAIN.union(known) and not name.isdigit():
                self._names[name] = self._word("host", name.lower())
        for name in dict.fromkeys(hosts_in(text)):
            self._know_host(name, alone="." not in name)
        # What else is in a domain that is known, is a machine.
        for domain in list(self._domains):
            inside = rf"(?i)(?<![\w.-])(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)+{re.escape(domain)}(?![\w-])"
            for name in sorted({found[0].lower() for found in re.finditer(inside, text)}):
                self._know_host(name, alone=False)
        self._look_for_names()

    def text(self, text: str) -> str:
        """The text with everything replaced."""
        for secret in self._secrets:
            text = text.replace(secret, SECRET)
        text = without_secrets(text)
        text = _SSID.sub(r"\1<ssid>", text)
        text = _VARIABLE.sub(r"\1\2<value>", text)
        text = _QUOTED_HOME.sub(
            lambda found: found["quote"] + _WHOLE_HOME.sub(_short, found["path"]) + found["quote"], text
        )
        text = _WINDOWS_HOME.sub(_short, text)
        text = _HOME.sub(_short, text)
        text = _ROOT.sub(_short, text)
        text = _LONG.sub(SECRET, text)
        text = _MIXED.sub(SECRET, text)
        text = _MAC.sub(lambda found: self._word("mac", found[0].lower()), text)
        text = _IPV6.sub(self._ipv6, text)
        text = _IPV4.sub(self._ipv4, text)
        text = _AT.sub(lambda found: f"{self._name_of('user', found[1])}@{found[2]}", text)
        if self._named is not None:
            text = self._named.sub(lambda found: self._lower[found[0].lower()], text)
        return _LOCAL.sub(self._host, text)

    def value(self, value: object, field: str = "") -> object:
        """A JSON value with everything replaced, in keys too. What is in a field for secrets goes whole."""
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(one, str(key)) for key, one in value.items()}
        if isinstance(value, list):
            return [SECRET if _is_flag(before) else self.value(one, field) for before, one in _with_before(value)]
        if value and not isinstance(value, bool | float) and _is_secret(field, value):
            return SECRET
        if not isinstance(value, str):
            return value
        path = _WHOLE_HOME.fullmatch(value)
        return self.text(_short(path) if path is not None else value)

    def _know_host(self, name: str, alone: bool = True) -> None:
        """A host's name, its domain, and as `alone` the machine's where it stands without."""
        if not is_host(name):
            return
        known = {one.lower(): said for one, said in self._names.items()}
        label, domain = split_host(name)
        word = known.get(label.lower()) or self._word("host", label.lower())
        if alone and label.lower() not in PLAIN.union(known) and (not domain or len(label) > 2):
            self._names[label] = word
        if domain and name.lower() not in known:
            self._names[name.lower().rstrip(".")] = f"{word}.{self._word('domain', domain.lower())}"
        # "net" alone says nothing, and stands in many a place.
        if "." in domain:
            self._domains[domain.lower()] = self._names[domain.lower()] = self._word("domain", domain.lower())

    def _look_for_names(self) -> None:
        words = "|".join(re.escape(name) for name in sorted(self._names, key=len, reverse=True))
        self._lower = {name.lower(): word for name, word in self._names.items()}
        self._named = re.compile(rf"(?i)(?<![A-Za-z0-9])(?:{words})(?![A-Za-z0-9])") if words else None

    def _name_of(self, kind: str, name: str) -> str:
        """What a name is called: as one that is known, or as a new one of that kind."""
        return self._names.get(name) or self._word(kind, name)

    def _word(self, kind: str, thing: str) -> str:
        if (kind, thing) not in self._said:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._said[kind, thing] = f"{kind}{self._counts[kind]}"
        return self._said[kind, thing]

    def _host(self, found: re.Match[str]) -> str:
        known = set(self._names.values())
        return f"{found[1] if found[1] in known else self._word('host', found[1].lower())}.local"

    def _ipv4(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.IPv4Address(found[0])
        except ValueError:
            return found[0]
        if address.is_loopback or address.is_unspecified:
            return found[0]
        net = self._word("net", str(ipaddress.ip_network(f"{address}/24", strict=False)))
        return f"{net}.{self._word(f'{net}.', str(address)).removeprefix(f'{net}.')}"

    def _ipv6(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.IPv6Address(found[0])
        except ValueError:
            return found[0]
        return found[0] if address.is_loopback or address.is_unspecified else self._word("ip6-", str(address))


def _is_secret(field: str, value: object) -> bool:
    if isinstance(value, int):
        return False
    return _SECRET_FIELD.search(field) is not None and _COUNTS.search(field) is None


def _is_flag(word: object) -> bool:
    return isinstance(word, str) and _FLAG_ALONE.fullmatch(word) is not None


def _with_before(values: list[object]) -> Iterable[tuple[object, object]]:
    return zip([None, *values], values, strict=False)


def _short(found: re.Match[str]) -> str:
    """A home folder's path: what the file is called may matter, where somebody keeps it does not."""
    parts = re.split(r"[\\/]+", found["rest"])[1:]
    return "~" if not parts else f"~/{parts[0]}" if len(parts) == 1 else f"~/.../{parts[-1]}"
