"""Host key pins and known_hosts lines, against what ssh-keygen wrote once."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.link.hostkey import Trust, fingerprint

__all__: list[str] = []


def _key(seed: int) -> tuple[str, str]:
    """A public key line of ed25519 and its fingerprint."""
    name = b"ssh-ed25519"
    blob = len(name).to_bytes(4, "big") + name + (32).to_bytes(4, "big") + bytes([seed]) * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}", fingerprint(blob)


_ONE, _ONE_PRINT = _key(1)
_TWO, _TWO_PRINT = _key(2)


def _hashed(name: str) -> str:
    salt = bytes(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, digest))


def test_a_fingerprint_is_what_ssh_keygen_prints() -> None:
    # ssh-keygen -lf of a published key: github.com's ed25519 host key.
    blob = base64.b64decode("AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl")
    assert fingerprint(blob) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


@pytest.mark.parametrize("pin", [_ONE, f"{_ONE} root@box", f"  {_ONE}\n", _ONE_PRINT])
def test_a_pin_accepts_its_key_and_no_other(pin: str) -> None:
    trust = Trust.of_pin(pin, "box")
    assert trust.accepts(_ONE_PRINT)
    assert not trust.accepts(_TWO_PRINT)
    assert "box" in trust.source


@pytest.mark.parametrize(
    "pin", ["", "SHA256:", _ONE_PRINT[:-1], _ONE.split()[1], _ONE[:40], "ssh-rsa " + _ONE[12:]]
)
def test_what_is_no_pin_is_told(pin: str) -> None:
    with pytest.raises(UsageError, match="neither a fingerprint nor a public key"):
        Trust.of_pin(pin, "box")


@pytest.mark.parametrize(
    ("field", "host", "port", "found"),
    [
        ("box", "box", 22, True),
        ("BOX", "box", 22, True),
        ("box", "Box", 22, True),
        ("other,box", "box", 22, True),
        ("[box]:2222", "box", 2222, True),
        ("[box]:2222", "box", 22, False),
        ("box", "box", 2222, True),
        ("*.lab", "a.lab", 22, True),
        ("*.lab", "a.lab.org", 22, False),
        ("*.lab,!bad.lab", "bad.lab", 22, False),
        ("!bad.lab,*.lab", "good.lab", 22, True),
        ("bo?", "box", 22, True),
        ("[abc]", "a", 22, False),
        ("fe80::1", "fe80::1", 22, True),
        (_hashed("box"), "box", 22, True),
        (_hashed("[box]:2222"), "box", 2222, True),
        (_hashed("other"), "box", 22, False),
        ("|1|garbage", "box", 22, False),
        ("|1|!!|!!", "box", 22, False),
    ],
)
def test_known_hosts_names(tmp_path: Path, field: str, host: str, port: int, found: bool) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"# comment\n\n{field} {_ONE} comment\n")
    if found:
        trust = Trust.of_known_hosts(path, host, port, "box")
        assert trust.accepts(_ONE_PRINT)
        assert trust.source == f"{path}:3"
    else:
        with pytest.raises(UsageError, match="unknown host"):
            Trust.of_known_hosts(path, host, port, "box")


def test_several_keys_of_a_host_and_a_revoked_one(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"box {_ONE}\nbox {_TWO}\n@revoked * {_TWO}\n@cert-authority * {_ONE}\n")
    trust = Trust.of_known_hosts(path, "box", 22, "box")
    assert trust.accepts(_ONE_PRINT)
    assert not trust.accepts(_TWO_PRINT)
    assert trust.source == f"{path}:1, 2"


def test_lines_that_are_no_keys_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(
        b"box\nbox ssh-ed25519\nbox ssh-ed25519 %%%\nbox ssh-dss AAAA\n\xff\xfe x y z\n"
    )
    with pytest.raises(UsageError, match="unknown host"):
        Trust.of_known_hosts(path, "box", 22, "box")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read known_hosts"):
        Trust.of_known_hosts(tmp_path / "missing", "box", 22, "box")
