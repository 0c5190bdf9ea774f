"""What must not leave the lab, taken out of text: keys, addresses, hosts, users, credentials.

Known secrets come from the target list and run.json, others are known by their form.  The same
secret is the same placeholder everywhere, so that what belongs together still shows.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from harness.inventory import Target

__all__ = ["Redactor", "of_facts", "of_target"]

# A shorter word would be found in the midst of others' text.
_SHORTEST = 4
# Words of a power or console command that are no secret of anybody's.
_PLAIN = frozenset(
    {
        "chassis", "power", "status", "outlet", "cycle", "reset", "true", "false", "interface",
        "lanplus", "console", "connect", "serial", "force", "port", "host", "user", "password",
        "9600", "38400", "115200",
    }
)  # fmt: skip

_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")

# kind, pattern; what is replaced is the group "secret", else all of it.
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("key", re.compile(r"\b(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-\S{1,30}|sk-\S{1,40}) AAAA\S+")),
    # "openssh-key-v1" (openssh, PROTOCOL.key), also without the lines around it.
    ("key", re.compile(r"\bb3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=]*")),
    ("key", re.compile(r"\bSHA256:[A-Za-z0-9+/]{43}=?")),
    ("key", re.compile(r"\bMD5:(?:[0-9a-f]{2}:){15}[0-9a-f]{2}\b")),
    ("credential", re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://(?P<secret>[^\s/@]{1,200})@", re.I)),
    (
        "credential",
        re.compile(r"\bauthorization:?\s{0,4}(?:basic|bearer)\s+(?P<secret>\S+)", re.I),
    ),
    (
        "credential",
        re.compile(
            r"(?:passw(?:or)?d|passphrase|secret|api[_-]?key|access[_-]?key|auth|token|community)"
            r"[\"']?\s{0,2}[=:]\s{0,2}[\"']?(?P<secret>[^\s\"',;&]{3,200})",
            re.I,
        ),
    ),
    ("address", re.compile(r"(?<![\w:.-])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:-])", re.I)),
    # Who built the kernel, and where (init/version.c).
    ("user", re.compile(r"\bLinux version \S{1,80} \((?P<secret>[^\s()]{1,200})\)")),
    # root@host, addresses of mail; not a device tree's i2c@7e804000.
    (
        "user",
        re.compile(
            r"(?<![\w.+-])(?P<secret>[a-z_][\w.+-]{0,63}@(?![0-9a-f.]+\b)[a-z0-9][a-z0-9.-]{0,252})",
            re.I,
        ),
    ),
    ("user", re.compile(r"(?<![\w.])/(?:home|Users)/(?P<secret>[A-Za-z0-9_][\w.-]{0,63})")),
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-f:]*:[0-9a-f:]*:)[0-9a-f:]{3,39}(?![\w:])", re.I)


class Redactor:
    """Takes secrets out of text; remembers which placeholder stands for which."""

    def __init__(self, secrets: Iterable[tuple[str, str]] = ()) -> None:
        """`secrets` are known ones: kind and text."""
        self._names: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._known = {
            text: kind
            for kind, text in secrets
            if len(text) >= _SHORTEST and text.casefold() not in _PLAIN
        }
        words = sorted(self._known, key=len, reverse=True)
        # Not in the midst of a word: a host "gen3" is not in "gen3_reset".  What is attached to a
        # short option is in none: "-Phunter22".
        before = r"(?:(?<!\w)|(?<=(?<![\w-])-\w))"
        pattern = "|".join(rf"{before}{re.escape(word)}(?!\w)" for word in words)
        self._words = re.compile(pattern) if words else None
        self._in_key = False

    @property
    def replaced(self) -> dict[str, int]:
        """How many different secrets of each kind were found so far."""
        return dict(self._counts)

    def lines(self, lines: Iterable[str]) -> Iterator[str]:
        """`lines` without secrets, as many as there were: also of a private key over several."""
        self._in_key = False
        for line in lines:
            yield self._line(line)
        self._in_key = False

    def text(self, text: str) -> str:
        """`text` without secrets."""
        return "".join(self.lines(text.splitlines(keepends=True)))

    def value(self, value: Any) -> Any:
        """Decoded JSON without secrets, in keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(each) for key, each in value.items()}
        return value

    def data(self, data: bytes) -> bytes:
        """Binary `data` with the known secrets blotted out, at the same length."""
        for word in sorted(self._known, key=len, reverse=True):
            for coding in ("utf-8", "utf-16-le"):
                secret = word.encode(coding, "surrogateescape")
                if secret in data:
                    self._name(self._known[word], word)
                    data = data.replace(secret, b"x" * len(secret))
        return data

    def _line(self, line: str) -> str:
        begins = _KEY_BEGIN.search(line)
        if self._in_key or begins:
            end = _KEY_END.search(line, begins.end() if begins else 0)
            # A key that the log cut short must not swallow the rest of the log.
            still = not end and (bool(begins) or _looks_like_key(line))
            if self._in_key and not end and not still:
                self._in_key = False
                return self._line(line)
            self._in_key = still
            before = self._plain(line[: begins.start()]) if begins else ""
            after = self._line(line[end.end() :]) if end else line[len(line.rstrip("\r\n")) :]
            return f"{before}{self._name('key', 'private')}{after}"
        return self._plain(line)

    def _plain(self, line: str) -> str:
        if self._words:
            line = self._words.sub(lambda m: self._name(self._known[m[0]], m[0]), line)
        for kind, form in _FORMS:
            line = form.sub(partial(self._in, kind), line)
        line = _IPV4.sub(self._address, line)
        return _IPV6.sub(self._address, line)

    def _in(self, kind: str, match: re.Match[str]) -> str:
        """The match with its secret replaced."""
        group = "secret" if "secret" in match.re.groupindex else 0
        secret = match[group]
        if secret.startswith("<") and secret.endswith(">"):
            return match[0]  # a placeholder
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return match[0][:start] + self._name(kind, secret) + match[0][end:]

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        # Whose that is, says nothing.
        if address.is_loopback or address.is_unspecified or match[0].startswith("255."):
            return match[0]
        return self._name("address", match[0])

    def _name(self, kind: str, secret: str) -> str:
        if (kind, secret) not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[kind, secret] = f"<{kind}-{self._counts[kind]}>"
        return self._names[kind, secret]


def _looks_like_key(line: str) -> bool:
    """Base64, perhaps behind a record's header or a clock."""
    word = line.rstrip().rpartition(" ")[2].rpartition(";")[2]
    return re.fullmatch(r"[A-Za-z0-9+/]{16,}={0,2}|Proc-Type:.*|DEK-Info:.*|", word) is not None


def of_target(target: Target) -> Iterator[tuple[str, str]]:
    """The secrets of one entry of the target list."""
    yield from _host(target.address, target.name)
    for kind, text in (
        ("key", target.key),
        ("key", target.key and Path(target.key).name),
        ("key", target.host_key),
        ("key", target.known_hosts),
        ("user", target.user if target.user != "root" else None),
    ):
        if text:
            yield kind, text
    for way in (target.power, target.console):
        for key, value in msgspec.to_builtins(way).items():
            if isinstance(value, list | tuple):
                yield from _arguments(tuple(map(str, value)))
            elif key in ("password_env", "password_file") and value:
                yield from _password(key, value)
            elif isinstance(value, str) and key != "kind":
                yield ("host" if key == "host" else "credential"), value


def of_facts(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The secrets of a run.json."""
    target = facts.get("target", {})
    name = target.get("name") or ""
    yield from _host(target.get("address"), name)
    yield from _host(facts.get("kernel", {}).get("uname", {}).get("nodename"), name)
    if target.get("user") not in (None, "", "root"):
        yield "user", target["user"]
    for key in ("host_key", "known_hosts", "key"):
        if target.get(key):
            yield "key", target[key]


def _host(address: str | None, name: str) -> Iterator[tuple[str, str]]:
    """An address, and the host's short name unless the target is called so."""
    if not address:
        return
    for text in (address, address.partition(".")[0]):
        if text not in (name, "localhost", "(none)") and not text.isdigit():
            yield "host", text


def _password(key: str, named: str) -> Iterator[tuple[str, str]]:
    """A password that the target list only names, and the name."""
    yield "credential", named
    try:
        path = Path(named).expanduser()
        value = os.environ.get(named) if key == "password_env" else path.read_text()
    except (OSError, UnicodeDecodeError):
        return
    if value and value.strip():
        yield "credential", value.strip()


def _arguments(argv: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Whatever a command is told may be a credential: its words, what stands behind a `=`, and
    what is attached to a short option."""
    for word in argv[1:]:
        if not word.startswith("-"):
            yield "credential", word
        elif not word.startswith("--"):
            yield "credential", word[2:]  # ipmitool's -PPASSWORD
        if "=" in word:
            yield "credential", word.partition("=")[2]
