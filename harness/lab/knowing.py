"""known-issues.toml as it is written: an entry from a failure, and entries that say too little.

Adds text at the file's end and leaves what stands there, comments too, as it is.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Iterable
from datetime import date, timedelta
from pathlib import Path

from harness.errors import UsageError
from harness.evidence.files import write_bytes
from harness.evidence.rundir import attempt_of
from harness.known import NAME, Issue, KnownIssues, load, overlap
from harness.lab.casefile import Case
from harness.lab.past import Result

__all__ = ["HOLDS", "add", "check", "entry", "name_for"]

HOLDS = 90
"""For how many days an entry holds unless somebody says otherwise: a kernel's development cycle."""
# Of what a test said, as much as tells it from other failures.
SAID = 80
# An entry that did not show in so many results that it concerns is pointed out.
QUIET = 20


def entry(
    case: Case,
    *,
    bug: str,
    today: date,
    title: str = "",
    rate: float | None = None,
    days: int = HOLDS,
) -> str:
    """The lines of an entry for what `case` failed with, on its driver and kernel series.

    A flake where there is a `rate`.  Raises UsageError for a test that did not fail.
    """
    failing = case.failing
    if not failing:
        raise UsageError(
            f"nothing in it failed: its verdict is {case.verdict.outcome}",
            where=str(case.directory),
            cure="name a test that failed",
        )
    own = failing[0].kind in ("assertion", "died") and not _found(case)
    if own and case.verdict.outcome != "fail":
        raise UsageError(
            f"no entry can excuse this: its verdict is {case.verdict.outcome}",
            where=str(case.directory),
            cure="a dead target is never excused",
        )
    expires = today + timedelta(days=days)
    release = re.match(r"(\d+)\.(\d+)", str(_release(case)))
    facts: list[tuple[str, str]] = [
        ("title", _text(title or failing[0].title)),
        ("state", _text("flake" if rate is not None else "fail")),
        *([("rate", repr(float(rate)))] if rate is not None else []),
        ("bug", _text(bug)),
        ("expires", expires.isoformat()),
    ]
    if not own:
        facts.append(("signature", _text(failing[0].signature)))
        if also := [f.signature for f in failing[1:] if f.signature != failing[0].signature]:
            facts.append(("also", f"[{', '.join(map(_text, dict.fromkeys(also)))}]"))
    facts.append(("test", _text(attempt_of(case.test)[0])))
    said = case.window.body_text if case.window and case.window.body == "failed" else ""
    if said:
        facts.append(("says", _text(_pattern(said.strip().splitlines()[0]))))
    if case.driver:
        facts.append(("driver", _text(case.driver)))
    if release:
        major, minor = int(release[1]), int(release[2])
        facts.append(("kernel", _text(f">= {major}.{minor}, < {major}.{minor + 1}")))
    return "".join(f"{key} = {value}\n" for key, value in facts)


def name_for(case: Case, taken: Collection[str]) -> str:
    """A name for its entry that no other has."""
    plain = attempt_of(case.test)[0].rpartition("::")[2].removeprefix("test_")
    base = re.sub(r"[^a-z0-9]+", "-", f"{case.driver} {plain}".lower()).strip("-")
    number, name = 1, base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def add(path: Path, name: str, lines: str, targets: Iterable[str], today: date) -> None:
    """Add the entry `name` at the end of `path`, which is made where it is not.

    A link to it stays one, and its line ends stay what they are.  Raises UsageError, and changes
    nothing, where the file would not be valid.
    """
    before = path.read_bytes().decode() if path.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    added = f"{gap}[issues.{name}]\n{lines}"
    text = before + (added.replace("\n", "\r\n") if "\r\n" in before else added)
    # Beside the file itself, for what an entry names may be a file there.
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{NAME}.", suffix=".toml"
    ) as tried:
        tried.write(text)
        tried.flush()
        load(Path(tried.name), targets, today)
    write_bytes(path.resolve(), text.encode())


def check(known: KnownIssues, results: Iterable[Result]) -> list[str]:
    """A line for each entry that has expired, that overlaps an earlier one, or that did not show
    although what it concerns ran often enough."""
    lines = known.stale()
    entries = list(known.issues.items())
    for number, (name, issue) in enumerate(entries):
        for earlier, other in entries[:number]:
            if overlap(issue, other):
                lines.append(f"known issue {name} overlaps {earlier}: the first one is taken")
    ran: dict[str, int] = {}
    shown: set[str] = set()
    for result in results:
        shown |= set(result.known)
        if not result.judged:
            continue
        scope = known.scope(
            test=result.test, target=result.target, driver=result.driver, kernel=result.kernel
        )
        for name in scope.names():
            ran[name] = ran.get(name, 0) + 1
    for name, issue in entries:
        if name not in shown and _enough(issue, ran.get(name, 0)):
            lines.append(f"known issue {name} did not show in {ran[name]} results: is it fixed?")
        elif name not in ran and ran and issue.test:
            lines.append(f"known issue {name} concerns nothing that ran: {issue.test}")
    return lines


def _enough(issue: Issue, ran: int) -> bool:
    return ran >= QUIET and bool(issue.test)


def _found(case: Case) -> bool:
    return any(finding.severity == "fail" for finding in case.verdict.findings)


def _release(case: Case) -> str:
    return str(case.facts.get("kernel", {}).get("uname", {}).get("release", ""))


def _pattern(said: str) -> str:
    """What the test said as a regular expression, whatever the numbers in it."""
    return "^" + re.sub(r"\d+", r"\\d+", re.escape(said[:SAID]))


def _text(value: str) -> str:
    """A TOML basic string: JSON's is one, but for the one control character it leaves."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
