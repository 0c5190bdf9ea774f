"""Which host key a target may show.

Three ways to pin one: a SHA256 fingerprint, a public key line, or a known_hosts
file.  Nothing is learned on first use; without a pin no one is trusted.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError

__all__ = ["ALGORITHMS", "Trust", "fingerprint"]

# Signature algorithms asked for, by type of key; newest first.  ssh-rsa (SHA-1) is left out.
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}

_PRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def fingerprint(blob: bytes) -> str:
    """`blob`, a public key in SSH's wire format, as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Trust:
    """The keys one host may show."""

    accepted: frozenset[str]
    """Fingerprints; never empty."""
    types: frozenset[str] | None
    """Key types to ask the host for; None when a bare fingerprint leaves them open."""
    source: str
    """Where the pin stands, for messages: what to change when the host has really changed."""
    revoked: frozenset[str] = field(default=frozenset())

    def accepts(self, shown: str) -> bool:
        """Whether the fingerprint `shown` is one of those pinned."""
        return shown in self.accepted and shown not in self.revoked

    @classmethod
    def of_pin(cls, pin: str, where: str) -> Trust:
        """From "SHA256:..." or "ssh-ed25519 AAAA...".  Raises UsageError when it is neither."""
        pin = pin.strip()
        source = f"host_key of {where} in targets.toml"
        if _PRINT.fullmatch(pin.rstrip("=")):
            return cls(frozenset({pin.rstrip("=")}), None, source)
        words = pin.split()
        if len(words) >= 2 and (blob := _blob(words[0], words[1])):
            return cls(frozenset({fingerprint(blob)}), frozenset({words[0]}), source)
        raise UsageError(
            f"host_key {pin[:60]!r} is neither a fingerprint nor a public key",
            where=where,
            cure='write "SHA256:" and 43 letters as `ssh-keygen -l` prints it, or the two words'
            f' "TYPE AAAA..." of a public key; types: {", ".join(ALGORITHMS)}',
        )

    @classmethod
    def of_known_hosts(cls, path: Path, host: str, port: int, where: str) -> Trust:
        """From a known_hosts file: plain, [host]:port, hashed, patterns, @revoked.

        Raises UsageError when the file is unreadable or names no usable key of this host.
        """
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UsageError(
                f"cannot read known_hosts {path}: {error.strerror}",
                where=where,
                cure="mend known_hosts in targets.toml, or pin host_key instead",
            ) from error
        # As OpenSSH does: the name with its port first, then the bare name.
        names = [host] if port == 22 else [f"[{host}]:{port}", host]
        for name in names:
            found = _lines_for(text, name.lower())
            if found:
                break
        accepted = {fingerprint(blob): kind for mark, kind, blob, _ in found if not mark}
        revoked = frozenset(fingerprint(blob) for mark, _, blob, _ in found if mark)
        if not accepted:
            scan = f"ssh-keyscan -p {port} {host}"
            raise UsageError(
                f"unknown host: {path} has no key for {names[0]}",
                where=where,
                cure=f"compare `{scan} | ssh-keygen -lf -` with the target's own screen"
                f" (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then `{scan} >> {path}`",
            )
        lines = ", ".join(str(line) for mark, _, _, line in found if not mark)
        source = f"{path}:{lines}"
        return cls(frozenset(accepted), frozenset(accepted.values()), source, revoked)


def _blob(kind: str, encoded: str) -> bytes | None:
    """The key in wire format, or None when it is not one of a type we know."""
    if kind not in ALGORITHMS:
        return None
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    fields = _fields(blob)
    return blob if len(fields) > 1 and fields[0] == kind.encode() else None


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed strings a key is made of (RFC 4253, 6.6); none when one is cut short."""
    fields = []
    while blob:
        end = 4 + int.from_bytes(blob[:4], "big")
        if len(blob) < max(5, end):
            return []
        fields.append(blob[4:end])
        blob = blob[end:]
    return fields


def _lines_for(text: str, name: str) -> list[tuple[bool, str, bytes, int]]:
    """(is revoked, key type, key, line number) of each line that speaks of `name`."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker not in ("", "@revoked"):
            continue
        blob = _blob(words[1], words[2])
        if blob and _names(words[0], name):
            found.append((bool(marker), words[1], blob, number))
    return found


def _names(patterns: str, name: str) -> bool:
    """Whether a known_hosts host field speaks of `name` (sshd(8), SSH_KNOWN_HOSTS FORMAT)."""
    if patterns.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in patterns[3:].split("|", 1))
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    matched = False
    for pattern in patterns.lower().split(","):
        # Only * and ? are special there; "[host]:port" must not become a character class.
        glob = pattern.lstrip("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name, glob):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched
