"""Passwords of the lab's own devices: read when needed, from where targets.toml names.

They reach a child by its environment alone, and `hidden` keeps them out of what
is said of a failure.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.errors import UsageError
from harness.ways import Bmc

__all__ = ["hidden", "password"]

_STARS = "***"
# http://user:password@host
_USERINFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")


def password(bmc: Bmc, target: str) -> str:
    """The BMC's password, "" where none is configured.  Raises UsageError where it is absent."""
    if bmc.password_env:
        found = os.environ.get(bmc.password_env, "")
        if not found:
            raise UsageError(
                f"the environment has no ${bmc.password_env}, the password of {bmc.host}",
                where=target,
                cure=f"export {bmc.password_env}=..., or password_file in targets.toml",
            )
        return found
    if bmc.password_file:
        path = Path(bmc.password_file).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read the password of {bmc.host}: {error}",
                where=f"{target}: {path}",
                cure="a file with the password as its first line, readable by you alone",
            ) from error
        if not lines or not lines[0]:
            raise UsageError(
                f"the password of {bmc.host} is empty",
                where=f"{target}: {path}",
                cure="write it as that file's first line",
            )
        return lines[0]
    return ""


def hidden(text: str, *secrets: str) -> str:
    """`text` without the `secrets`, the users and passwords of URLs, and the values of all
    environment variables that are named like secrets."""
    for name, value in os.environ.items():
        if len(value) >= 4 and re.search(r"PASS|SECRET|TOKEN|_KEY$", name):
            secrets = (*secrets, value)
    # The longest first: one may be a part of another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _STARS)
    return _USERINFO.sub(_STARS, text)
