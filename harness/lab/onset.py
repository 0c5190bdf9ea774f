"""When a finding began: the last kernel without it and the first with it, and their commits.

From the history, for a bisect to begin with.  A pass of a flaky test proves little: how likely a
bad kernel is to pass as often as the good one did, is counted and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.bisect.history import git
from harness.bisect.kernels import commit_built
from harness.errors import HarnessError, UsageError
from harness.evidence.rundir import RunDir
from harness.lab.history import History
from harness.lab.past import Result

__all__ = ["Kernel", "Onset", "commit_of", "find", "pick"]

# A kernel counts as good where a bad one would pass as often as it did with less than this chance.
UNLIKELY = 0.05
# scripts/setlocalversion ends a release so where CONFIG_LOCALVERSION_AUTO is set, unless the commit
# has a tag; "-dirty" follows where the tree had changes of its own.
_NAMED = re.compile(r"-g([0-9a-f]{7,40})(-dirty)?(?:[-+]|$)")
# Without it: a plain release is that of the tag.
_TAGGED = re.compile(r"(\d+\.\d+)\.(\d+)(-rc\d+)?$")


@dataclass(frozen=True)
class Kernel:
    """What a test did on one kernel."""

    release: str
    build: str
    """The history's name of it."""
    shown: int
    """Runs that showed the finding."""
    runs: int
    """All that proved something."""
    first: Result
    """The first of them; of a bad one, the first that showed it."""


@dataclass(frozen=True)
class Onset:
    """Of one finding, in one test on one target."""

    signature: str
    title: str
    target: str
    test: str
    bad: Kernel
    good: Kernel | None
    """None where every earlier kernel shows it, or none ran."""
    shown: int
    runs: int
    """Of all kernels that show it: the first was picked because it did."""

    @property
    def doubt(self) -> float:
        """The chance that a bad kernel passes as often as the good one did."""
        assert self.good is not None
        return _doubt(self.good.runs, self.shown, self.runs)

    def told(self) -> list[str]:
        """For people."""
        said = [f"{self.signature} {self.title}", f"in {self.test} on {self.target}"]
        said.append(f"first bad  {_told(self.bad)}")
        if self.good is None:
            return [*said, "last good  none is known"]
        line = f"last good  {_told(self.good)}"
        return [*said, f"{line}: a bad one passes as often with {self.doubt:.1%} chance"]


def pick(signatures: Iterable[str], name: str) -> str:
    """The signature that is `name` or the only one that begins so.  Raises UsageError."""
    found = sorted({one for one in signatures if one.startswith(name)}) if name else []
    if name in found or len(found) == 1:
        return name if name in found else found[0]
    raise UsageError(
        f"{'several findings begin' if found else 'the history knows no finding that begins'}"
        f" with {name!r}",
        cure=f"one of: {', '.join(found[:5])}"
        if found
        else "lab history add RUNS, if they are not in it; the site lists them",
    )


def find(history: History, signature: str, target: str = "", test: str = "") -> Onset:
    """The onset of what lasts until now, on `target` and in `test`, or where it was seen most.

    Raises UsageError where it was never seen there.
    """
    seen = history.results(signature=signature, target=target, test=test)
    seen = [result for result in seen if signature in result.signatures]
    if not seen:
        where = " ".join(filter(None, (f"on {target}" if target else "", test)))
        raise UsageError(
            f"{signature} was never seen {where}".rstrip(),
            where=history.url,
            cure="give a --target and --test of lab history, or leave them out",
        )
    places = [(result.target, result.test) for result in seen]
    place = max(places, key=places.count)
    ran = [r for r in history.results(target=place[0], test=place[1]) if r.judged]
    kernels = _kernels(ran, signature)
    last = max(number for number, one in enumerate(kernels) if one.shown)
    showing = [one for one in kernels if one.shown]
    # How often it shows is the same question for all of them.
    shown, runs = sum(one.shown for one in showing), sum(one.runs for one in showing)
    silent = [n for n, one in enumerate(kernels[:last]) if not one.shown]
    sure = [n for n in silent if _doubt(kernels[n].runs, shown, runs) < UNLIKELY]
    # Without a proven one: the newest before it was seen at all.
    begin = kernels.index(showing[0])
    at = sure[-1] if sure else max((n for n in silent if n < begin), default=None)
    after = 0 if at is None else at + 1
    first = next(one for one in kernels[after:] if one.shown)
    title = next(f.title for f in seen[-1].failings if f.signature == signature)
    good = None if at is None else kernels[at]
    return Onset(signature, title, *place, first, good, shown, runs)


def commit_of(tree: Path, kernel: Kernel, store: Path) -> str:
    """The commit of `tree` that it was built from, by its build id, its release, or its tag.

    Raises UsageError where none of them tells.
    """
    builds = _builds(kernel.first.path)
    if (known := commit_built(store, builds)) and _is_there(tree, known):
        return known
    named = _NAMED.search(kernel.release)
    if named is not None and not named[2] and (found := _is_there(tree, named[1])):
        return found
    tagged = _TAGGED.match(kernel.release)
    if tagged is not None:
        base, patch, candidate = tagged.groups()
        tag = f"v{base}{'' if patch == '0' else f'.{patch}'}{candidate or ''}"
        if found := _is_there(tree, f"refs/tags/{tag}"):
            return found
    why = "its release names none that is there, and no bisect built it"
    if named is not None:
        why = f"{named[1]} is not there, or had changes of its own"
    raise UsageError(
        f"the commit of kernel {kernel.release} ({kernel.first.run}) is not known: {why}",
        where=str(tree),
        cure="name it: --good REV, --bad REV; kernels with CONFIG_LOCALVERSION_AUTO name theirs",
    )


def _kernels(results: Sequence[Result], signature: str) -> list[Kernel]:
    """By kernel, in the order in which they were first run.  Another failure proves nothing."""
    by: dict[str, list[Result]] = {}
    for result in results:
        if signature in result.signatures or result.outcome == "pass":
            by.setdefault(result.build, []).append(result)
    made = []
    for build, mine in by.items():
        shown = [result for result in mine if signature in result.signatures]
        first = shown[0] if shown else mine[0]
        made.append(Kernel(first.kernel, build, len(shown), len(mine), first))
    return made


def _doubt(passed: int, shown: int, runs: int) -> float:
    """That one which `shown` it in so many `runs` passes so often; all rates before as likely."""
    chance = 1.0
    for number in range(passed):
        # The next run after so many: Laplace's rule.
        chance *= (runs - shown + 1 + number) / (runs + 2 + number)
    return chance


def _is_there(tree: Path, name: str) -> str:
    """The commit called so, or ""."""
    done = git(tree, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _builds(run: Path) -> dict[str, str]:
    try:
        kernel = RunDir.open(run).facts().get("kernel", {})
    except HarnessError:
        return {}  # pruned since: its release is in the history
    builds = kernel.get("builds", {})
    return builds if isinstance(builds, dict) else {}


def _told(kernel: Kernel) -> str:
    day = datetime.fromtimestamp(kernel.first.started, UTC).strftime("%Y-%m-%d")
    return f"{kernel.release} of {day} ({kernel.first.run}): {kernel.shown} of {kernel.runs} runs"
