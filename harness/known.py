"""known-issues.toml: which failures somebody knows of already, until when, and where they live.

An entry excuses a finding, or a test's own failure, and never hides it: the evidence stays as
it is, the verdict names the entry.  Reads one file; decides from facts that it is given.
"""

from __future__ import annotations

import operator
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from harness.errors import UsageError
from harness.evidence.finding import Finding
from harness.evidence.rundir import attempt_of
from harness.inventory import Inventory
from harness.tomlerror import explained, line_of, nearest, not_toml

__all__ = ["NAME", "Issue", "KnownIssues", "Scope", "load", "of_list", "overlap"]

NAME = "known-issues.toml"

Text = Annotated[str, Meta(min_length=1)]
Signature = Annotated[
    str,
    Meta(
        pattern=r"^(?:\d+-)?[0-9a-f]{12}$",
        description="a finding's signature, as the verdict shows it in brackets",
    ),
]
Range = Annotated[
    str,
    Meta(
        pattern=r"^\s*(?:<=|>=|==|<|>)\s*\d+(?:\.\d+)*\s*(?:,\s*(?:<=|>=|==|<|>)\s*\d+(?:\.\d+)*\s*)*$",
        description='kernel versions, as ">= 6.1, < 6.13"',
    ),
]


# Of a flake whose entry does not say how often it shows.
FLAKE = 0.5
Rate = Annotated[float, Meta(gt=0, lt=1, description="a share of all runs, as 0.05")]


class Issue(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry.  What it leaves out, it does not ask for.

    `state`: a failure that is expected (fail), that comes and goes (flake), or a finding that
    counts for nothing (ignore).  `bug` is a URL, or a file beside this one.
    """

    title: Text
    state: Literal["fail", "flake", "ignore"]
    bug: Text
    expires: date
    signature: Signature | Literal[""] = ""
    # Of what the same fault brings about: they count beside `signature` alone.
    also: tuple[Signature, ...] = ()
    test: str = ""
    # Of what the test itself says, searched in its first line.
    says: str = ""
    target: str = ""
    driver: str = ""
    kernel: Range | Literal[""] = ""
    # Of a flake: the share of runs in which it shows.
    rate: Rate | None = None

    def signs(self, seen: Collection[str]) -> frozenset[str]:
        """The signatures of findings that it excuses where those of `seen` were found."""
        return frozenset((self.signature, *self.also) if self.signature in seen else ())

    def admits(self, text: str) -> bool:
        """Whether a test it names may say `text`."""
        return re.search(self.says, text) is not None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    issues: dict[str, Issue] = {}


class Scope:
    """The entries that concern one test on one target."""

    def __init__(self, issues: Mapping[str, Issue], today: date) -> None:
        self._issues = issues
        self._today = today

    def of(self, finding: Finding, beside: Iterable[Finding] = ()) -> str:
        """The entry that excuses `finding`, which the test has `beside` others, or ""."""
        seen = _signatures([finding, *beside])
        return next((n for n, i in self._valid() if finding.signature in i.signs(seen)), "")

    def counts(self, name: str) -> bool:
        """Whether what the entry excuses is a failure still, if a known one."""
        return self._issues[name].state != "ignore"

    def of_body(self, text: str, findings: Iterable[Finding]) -> str:
        """The entry that excuses `text`, the first line of what the test itself said, or "": it
        names the test, and where it has a signature, that was found and it `says` so."""
        seen = _signatures(findings)
        for name, issue in self._valid():
            shown = not issue.signature or (bool(issue.says) and issue.signature in seen)
            if issue.test and shown and issue.admits(text):
                return name
        return ""

    def title(self, name: str) -> str:
        """What the entry calls itself."""
        return self._issues[name].title

    def expired(self, failing: Iterable[Finding]) -> str:
        """What to say of findings of which an entry excused one until it expired; "" where none
        did."""
        seen = _signatures(failing)
        return self._expired(lambda i: not i.signature or bool(i.signs(seen)))

    def expired_body(self, text: str) -> str:
        """The same of what the test itself said."""
        return self._expired(lambda issue: bool(issue.test) and issue.admits(text))

    def _expired(self, excused: Callable[[Issue], bool]) -> str:
        for name, issue in self._issues.items():
            if issue.expires < self._today and excused(issue):
                return f"known issue {name} expired on {issue.expires}"
        return ""

    def names(self) -> list[str]:
        """All of them."""
        return list(self._issues)

    def fixed(self) -> list[str]:
        """The entries that say this test fails, which it did not."""
        return [n for n, i in self._issues.items() if i.test and i.state == "fail"]

    def _valid(self) -> list[tuple[str, Issue]]:
        return [(n, issue) for n, issue in self._issues.items() if issue.expires >= self._today]


class KnownIssues(Struct, frozen=True):
    """All entries of a file, by name, as of a day."""

    issues: Mapping[str, Issue] = {}
    today: date = date.min

    def scope(self, *, test: str, target: str, driver: str, kernel: str) -> Scope:
        """The entries that concern `test` on `target` with `driver` under `kernel` (uname -r).

        One with a test, a target or a driver concerns that alone; one with a range, the
        kernels in it, and none where the kernel is not known.
        """
        return Scope(
            {
                name: issue
                for name, issue in self.issues.items()
                if issue.target in ("", target)
                and issue.driver in ("", driver)
                and (not issue.test or _names(issue.test, attempt_of(test)[0]))
                and (not issue.kernel or _within(issue.kernel, kernel))
            },
            self.today,
        )

    def rates(self) -> dict[str, float]:
        """How often each flake is said to show, by the entry's name."""
        return {
            name: FLAKE if issue.rate is None else issue.rate
            for name, issue in self.issues.items()
            if issue.state == "flake"
        }

    def stale(self) -> list[str]:
        """A line for each entry that has expired."""
        return [
            f"known issue {name} expired on {issue.expires}: {issue.title} ({issue.bug})"
            for name, issue in self.issues.items()
            if issue.expires < self.today
        ]


def of_list(listed: Inventory, given: Path | None = None) -> KnownIssues:
    """The issues in the file `given`, else in the one beside the target list, else none, as of
    today.  Raises UsageError."""
    path = given or listed.path.resolve().parent / NAME
    if given is None and not path.exists():
        return KnownIssues()
    return load(path, listed.targets, date.today())


def load(path: Path, targets: Iterable[str], today: date) -> KnownIssues:
    """Read and validate `path`; `targets` are the names an entry may give.

    Raises UsageError naming file, line, what was expected and the nearest name.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise not_toml(path, text, error) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the known issues: {error}",
            where=str(path),
            cure="mend or remove it, or name another with --known FILE",
        ) from error
    try:
        parsed = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise explained(path, text, raw, _File, error) from error
    known = sorted(targets)
    for name, issue in parsed.issues.items():
        _check(path, text, name, issue, known)
    _apart(path, text, parsed.issues)
    return KnownIssues(parsed.issues, today)


def _check(path: Path, text: str, name: str, issue: Issue, targets: list[str]) -> None:
    """What the types cannot say."""

    def bad(key: str, what: str, cure: str) -> UsageError:
        line = line_of(text, ("issues", name, key))
        return UsageError(f"issue {name!r}: {what}", where=f"{path}:{line}", cure=cure)

    if not issue.signature and not issue.test:
        raise bad("", "has neither a signature nor a test", "say which failure it excuses")
    if issue.also and not issue.signature:
        raise bad("also", "has no signature beside which it counts", "make one of them that")
    if issue.says and not issue.test:
        raise bad("says", "names no test that says it", "add the test")
    try:
        re.compile(issue.says)
    except re.error as error:
        raise bad("says", f"is no regular expression: {error}", "see Python's re") from error
    if issue.state == "ignore" and not issue.signature:
        raise bad(
            "state",
            "ignores whatever a test fails with",
            'add the signature, or make it state = "fail"',
        )
    if issue.rate is not None and issue.state != "flake":
        raise bad("rate", "has a rate, but is no flake", 'make it state = "flake", or remove it')
    if issue.target and issue.target not in targets:
        raise bad(
            "target",
            f"there is no target {issue.target!r}{nearest(issue.target, targets)}",
            f"known: {', '.join(targets)}",
        )
    if not re.match(r"https?://\S+$", issue.bug) and not (path.parent / issue.bug).exists():
        raise bad("bug", f"{issue.bug!r} is no URL and no file here", "say where it is written up")


def _apart(path: Path, text: str, issues: Mapping[str, Issue]) -> None:
    """Two entries for the same thing: the second would never be used."""
    seen: dict[tuple[str, ...], str] = {}
    for name, issue in issues.items():
        for signature in (issue.signature, *issue.also):
            what = (signature, issue.says, issue.test, issue.target, issue.driver, issue.kernel)
            first = seen.setdefault(what, name)
            if first != name:
                raise UsageError(
                    f"issue {name!r}: excuses the very same as {first!r}",
                    where=f"{path}:{line_of(text, ('issues', name))}",
                    cure="keep one of them",
                )


def _signatures(findings: Iterable[Finding]) -> frozenset[str]:
    return frozenset(finding.signature for finding in findings)


def overlap(one: Issue, other: Issue) -> bool:
    """Whether a failure could be excused by both, as far as can be told from the entries."""
    for mine, others in ((one.target, other.target), (one.driver, other.driver)):
        if mine and others and mine != others:
            return False
    if (
        one.test
        and other.test
        and not (_names(one.test, other.test) or _names(other.test, one.test))
    ):
        return False
    signs, others_signs = {one.signature, *one.also}, {other.signature, *other.also}
    if not signs & others_signs or (not (signs & others_signs - {""}) and one.says != other.says):
        return False
    if not one.kernel or not other.kernel:
        return True
    bounds = re.findall(r"\d[\d.]*", f"{one.kernel},{other.kernel}")
    # Ranges that meet have in common a bound of one of them, or what comes just after it.
    return any(
        _within(one.kernel, version) and _within(other.kernel, version)
        for bound in bounds
        for version in (bound, f"{bound}.0.1", f"{bound}.999999")
    )


def _names(pattern: str, test: str) -> bool:
    """Whether `pattern` means `test`: its node id with or without parameters, * for any text.

    Not fnmatch, to which the brackets of a parametrised test's id would be a pattern.
    """
    words = ".*".join(map(re.escape, pattern.split("*")))
    return re.fullmatch(rf"{words}(?:\[.*\])?", test) is not None


_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def _within(kernels: str, release: str) -> bool:
    """Whether `release` is in the range.  A bound has as many parts as it was given: 6.12.117
    is <= 6.12, and not > 6.12."""
    found = re.match(r"\d+(?:\.\d+)*", release)
    if found is None:
        return False
    have = tuple(map(int, found[0].split(".")))
    for bound in kernels.split(","):
        sign, version = re.findall(r"[<>=]+|\d[\d.]*", bound)
        wanted = tuple(map(int, version.split(".")))
        if not _COMPARE[sign](have[: len(wanted)], wanted):
            return False
    return True
