"""The kernel's configuration: what was asked for, and whether Kconfig kept it.

Kconfig drops a symbol whose dependencies fail without a word; here every symbol of
the fragment is asserted by name after olddefconfig.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import LabError, UsageError

__all__ = ["FRAGMENT", "assert_kept", "parse", "wanted"]

FRAGMENT = Path(__file__).parent / "config"

_SET = re.compile(r"^(CONFIG_[A-Za-z0-9_]+)=(.*)$")
_UNSET = re.compile(r"^# (CONFIG_[A-Za-z0-9_]+) is not set$")


def parse(text: str) -> dict[str, str]:
    """Symbols and values of a .config; "is not set" reads as n."""
    values = {}
    for line in text.splitlines():
        if match := _SET.match(line):
            values[match[1]] = match[2]
        elif match := _UNSET.match(line):
            values[match[1]] = "n"
    return values


def wanted(path: Path = FRAGMENT) -> dict[str, str]:
    """The fragment's symbols.  Raises UsageError for a line that is none, or one given twice."""
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SET.match(line.rstrip())
        if match is None or match[1] in values:
            why = "is given twice" if match else "is no CONFIG_NAME=value"
            raise UsageError(f"{line!r} {why}", where=f"{path}:{number}", cure="mend that line")
        values[match[1]] = match[2]
    return values


def assert_kept(asked: dict[str, str], got: dict[str, str], where: str) -> None:
    """Raises LabError naming every symbol that did not come out as asked, and as what."""
    lost = []
    for name, value in asked.items():
        now = got.get(name, "n")
        if now != value:
            gone = "dropped (no such symbol, or its dependencies are not met)"
            lost.append(f"{name}={value}: " + (f"is {now}" if name in got else gone))
    if lost:
        raise LabError(
            f"Kconfig did not keep {len(lost)} of {len(asked)} symbols:\n    "
            + "\n    ".join(lost),
            where=where,
            cure=f"add what they depend on to {FRAGMENT}, or ask for what is possible",
        )
