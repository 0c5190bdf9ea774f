"""The files of a static site: templates rendered, text made harmless, what is stale taken away.

Everything shown may come from a kernel that an attacker crashed: Jinja2 escapes it, and what a
browser would act upon or hide is spelt out.  No page asks for anything but files of this site.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from harness.errors import UsageError
from harness.evidence.files import disk_error
from harness.lab.strips import STATES

__all__ = ["Pages", "plain"]

TEMPLATES = Path(__file__).parent / "templates"
# Written by us, so that a page that is no more is removed, and nothing that is not ours.
MANIFEST = ".tdrlab-site.json"
_OURS = re.compile(r"(?:[a-z]+/)?[A-Za-z0-9_\[\]=-][A-Za-z0-9._\[\]=-]*")
_ASSETS = ("site.css", "site.js")

# C0 and C1 but tab and newline; what turns text about (Unicode TR 9, 2) or takes no width; line
# separators; the halves of surrogate pairs, which UTF-8 cannot hold.
_HIDDEN = (
    *(c for c in range(32) if c not in (9, 10)),
    *range(127, 160),
    *(0x00AD, 0x061C, 0x180E, 0xFEFF),
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFFF9, 0xFFFC),
    *range(0xD800, 0xE000),
)
_SPELT = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _HIDDEN}


def plain(text: str) -> str:
    """`text` with all that a browser would act upon without showing it spelt out."""
    return text.translate(_SPELT)


class Pages:
    """A site being written to a directory."""

    def __init__(self, out: Path) -> None:
        """Raises UsageError where `out` holds files that are no site of ours, LabError (disk)."""
        self.out = out
        self._written: set[str] = set()
        self._before = self._manifest()
        self._environment = _environment()
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name in _ASSETS:
                self.text(name, (TEMPLATES / name).read_text())
        except OSError as error:
            raise disk_error(out, error) from error

    def page(self, name: str, template: str, **values: Any) -> None:
        """Render `template` to the file `name`.  Raises LabError (disk)."""
        root = "../" * name.count("/")
        made = self._environment.get_template(template).render(root=root, page=name, **values)
        self.text(name, made)

    def text(self, name: str, text: str) -> None:
        """Write a file.  Raises LabError (disk)."""
        self.data(name, text.encode("utf-8", "replace"))

    def data(self, name: str, data: bytes) -> None:
        """Write a file; one that says the same already is left alone.  Raises LabError (disk)."""
        path = self.out / name
        self._written.add(name)
        try:
            if path.exists() and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            # No fsync: the site can be made anew.  A reader sees the old page or the new one.
            temporary = path.with_name(f".{path.name[:80]}.new")
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError as error:
            raise disk_error(path, error) from error

    def copy(self, name: str, source: Path) -> bool:
        """Take over a file of the evidence; whether it is there.  Raises LabError (disk)."""
        try:
            data = source.read_bytes()
        except OSError:
            return False
        self.data(name, data)
        return True

    def close(self) -> None:
        """Remove what an earlier writing left and this one has not.  Raises LabError (disk)."""
        try:
            for name in self._before - self._written:
                (self.out / name).unlink(missing_ok=True)
            (self.out / MANIFEST).write_bytes(msgspec.json.encode(sorted(self._written)))
        except OSError as error:
            raise disk_error(self.out, error) from error

    def _manifest(self) -> set[str]:
        """What an earlier writing left."""
        try:
            told = json.loads((self.out / MANIFEST).read_text())
        except FileNotFoundError:
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise UsageError(
                    "is not empty, and no site of ours",
                    where=str(self.out),
                    cure="give another directory with --out",
                ) from None
            return set()
        except (OSError, ValueError):
            return set()
        # A name that leads out of the site was never written by us.
        return {name for name in told if isinstance(name, str) and _OURS.fullmatch(name)}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"day": _day, "moment": _moment, "span": _span}
    environment.filters |= {"short": _short, "many": _many}
    environment.globals["LETTERS"] = {state.name: state.letter or "-" for state in STATES}
    environment.globals["STATES"] = STATES
    return environment


def _finalize(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    return plain(value) if isinstance(value, str) else "" if value is None else value


def _day(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d}" if epoch else ""


def _moment(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M}" if epoch else ""


def _span(seconds: float) -> str:
    """A duration, as exact as one wants to read it."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _short(test: str) -> str:
    """A test's name without what all have in common."""
    return test.removeprefix("testcases/").replace(".py::", "::", 1)
