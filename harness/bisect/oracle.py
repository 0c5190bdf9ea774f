"""The oracle: what one run says of the kernel it ran on, from the run's directory alone.

Bad is only the very finding that is searched for; another failure is no verdict on it, and
whatever the lab broke is none at all.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from harness.bisect.search import Kind
from harness.errors import HarnessError
from harness.evidence import journal
from harness.evidence.finding import Finding, signature
from harness.evidence.rundir import RunDir, attempt_of
from harness.kernel.signature import steady
from harness.lab.ingest import ENDED, OF_ITS_OWN
from harness.verdict import Verdict, recorded

__all__ = ["Heard", "Wanted", "hear", "hear_each", "wanted_of"]


_CUT = "the run was cut short"


class Wanted(Struct, frozen=True):
    """The finding that makes a kernel bad: by its signature, or by the same diagnosis."""

    signature: str
    title: str = ""
    diagnosis: str = ""
    """What the harness made of it where it was seen; "" where that is not known."""

    def is_it(self, finding: Finding) -> bool:
        """Whether `finding` is the one."""
        if finding.severity == "note":
            return False
        same = bool(self.diagnosis) and finding.explanation == self.diagnosis
        return finding.signature == self.signature or same


class Heard(Struct, frozen=True, kw_only=True):
    """What one run said."""

    kind: Kind
    reason: str
    wanted: Wanted | None = None
    """What made it bad."""
    kernel: str = ""
    """uname -r and -v of what ran."""
    seconds: float = 0.0
    """What the test itself took."""


def hear_each(path: Path, test: str, wanted: Wanted | None, builds: dict[str, str]) -> list[Heard]:
    """As `hear`, but each repetition of `test` in that boot has an answer of its own, in order."""
    together = hear(path, test, wanted, builds)
    try:
        run = RunDir.open(path)
        mine = {name: v for name, v in recorded(run).items() if _asked(name, test)}
        named = {attempt_of(name)[1]: v for name, v in mine.items() if attempt_of(name)[0] == test}
    except HarnessError:
        return [together]
    # Of several tests, or of one that the lab broke into, only the whole is an answer.
    if together.kind == "none" or len(named) < 2 or len(named) != len(mine):
        return [together]
    found = []
    for number in sorted(named):
        heard = _one(named[number], wanted)
        if heard.kind == "good" and not _ended(run):
            heard = Heard(kind="none", reason=_CUT)
        seconds = named[number].seconds
        found.append(msgspec.structs.replace(heard, kernel=together.kernel, seconds=seconds))
    return found


def hear(path: Path, test: str, wanted: Wanted | None, builds: dict[str, str]) -> Heard:
    """The answer of the run in `path`, of `test` (a pytest node, or a part of its verdicts).

    Without a `wanted` the first failure is it.  `builds` are build ids, "vmlinux" or a module's
    name to 40 hex digits, that the kernel must have had: another one's run proves nothing.
    """
    try:
        run = RunDir.open(path)
        facts, verdicts = run.facts(), recorded(run)
    except HarnessError as error:
        return Heard(kind="none", reason=error.what)
    kernel = facts.get("kernel", {})
    uname = kernel.get("uname", {})
    named = f"{uname.get('release', '')} {uname.get('version', '')}".strip()
    mine = [v for name, v in verdicts.items() if _asked(name, test)]
    if not mine and _stillborn(run):
        return Heard(kind="other", reason="its kernel did not come up", kernel=named)
    if wrong := _wrong_build(kernel.get("builds", {}), builds):
        return Heard(kind="none", reason=wrong, kernel=named)
    if not mine:
        return Heard(kind="none", reason="the test did not end", kernel=named)
    heard = [_one(verdict, wanted) for verdict in mine]
    # One showing is enough to be bad; to be good, every one of them must be.
    for kind in ("bad", "none", "other", "good"):
        for one in heard:
            if one.kind == kind == "good" and not _ended(run):
                return Heard(kind="none", reason=_CUT, kernel=named)
            if one.kind == kind:
                seconds = sum(verdict.seconds for verdict in mine)
                return msgspec.structs.replace(one, kernel=named, seconds=seconds)
    raise AssertionError(heard)


def wanted_of(verdict: Verdict) -> Wanted | None:
    """What failed in it, as something to search for; None where nothing did, or a known issue
    excuses it.  A death without a finding is none: a power cut looks the same."""
    failing = [finding for finding in verdict.findings if finding.severity == "fail"]
    if verdict.outcome == "fail":
        # Its reason begins with the first that nothing excuses, or with what the test said.
        failing = [finding for finding in failing if verdict.reason.startswith(finding.title)]
    elif verdict.outcome != "incomplete":
        return None
    elif verdict.known:
        failing = [finding for finding in failing if verdict.reason.endswith(finding.title)]
    for finding in failing:
        return Wanted(finding.signature, finding.title, finding.explanation)
    return _said(verdict) if verdict.outcome == "fail" else None


def _said(verdict: Verdict) -> Wanted | None:
    """What the test itself said was wrong, or how its machine died, less what varies, made to
    look like a finding: as the history does it, whose signatures --finding takes."""
    if verdict.outcome not in OF_ITS_OWN or verdict.reason == ENDED:
        return None
    said = steady(verdict.reason)
    return Wanted(signature(OF_ITS_OWN[verdict.outcome], said), said)


def _one(verdict: Verdict, wanted: Wanted | None) -> Heard:
    if verdict.outcome == "error" or (verdict.outcome, verdict.reason) == ("incomplete", ENDED):
        # The lab's trouble: what the kernel said meanwhile may be its consequence.
        return Heard(kind="none", reason=f"{verdict.outcome}: {verdict.reason}")
    seen, said = wanted_of(verdict), _said(verdict)
    if wanted is not None:
        found = next((f for f in verdict.findings if wanted.is_it(f)), None)
        if found is not None:
            seen = Wanted(found.signature, found.title, found.explanation)
        else:
            seen = said if said and said.signature == wanted.signature else None
    if seen is not None:
        return Heard(kind="bad", reason=seen.title, wanted=seen)
    # An issue that excuses something may excuse what is searched for, or have masked it.
    expected = verdict.outcome == "xfail" and not verdict.known
    if verdict.outcome == "pass" or (expected and verdict.lockdep == "armed"):
        return Heard(kind="good", reason=verdict.reason)
    if expected or verdict.outcome in ("blind", "skip"):
        return Heard(kind="none", reason=f"{verdict.outcome}: {verdict.reason}")
    hint = f" (--finding {said.signature} searches for it)" if said and wanted is None else ""
    return Heard(kind="other", reason=f"{verdict.outcome}: {verdict.reason}{hint}")


def _ended(run: RunDir) -> bool:
    """Whether the session came to its end: of one that was killed, tests may be missing."""
    ends = [entry for entry in journal.read(run.journal.path) if entry["what"] == "run-end"]
    return bool(ends) and ends[-1].get("how") == "done"


def _stillborn(run: RunDir) -> bool:
    """Whether the machine came back without the kernel that the session booted it with."""
    tried = [entry for entry in journal.read(run.journal.path) if entry["what"] == "tried"]
    return bool(tried) and not tried[-1]["came"]


def _asked(name: str, test: str) -> bool:
    """Whether the verdict of `name` is one of the node `test`: itself, or a parameter of it."""
    name = attempt_of(name)[0]
    return name == test or name.startswith((f"{test}[", f"{test}::"))


def _wrong_build(ran: dict[str, str], expected: dict[str, str]) -> str:
    for name, build in expected.items():
        if ran.get(name) != build:
            there = ran.get(name) or "of none"
            return f"another kernel ran: {name} has build id {there}, not {build}"
    return ""
