"""A bisect from its first run to its report, on disk at every step.

The journal holds each answer as it comes; whoever resumes replays it and stands where the last
one stood.  What was running then is looked at, and run again only if it had not ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from harness.bisect.history import History
from harness.bisect.kernels import Kernel, Unbuildable, Workshop
from harness.bisect.oracle import Heard, Wanted, hear_each
from harness.bisect.policy import Price
from harness.bisect.reuse import shows_less
from harness.bisect.runner import Ran, Runner
from harness.bisect.search import Answer, Assumed, Search
from harness.errors import LabError, UsageError
from harness.evidence import journal
from harness.evidence.files import read_json, write_json
from harness.evidence.journal import Journal

__all__ = ["Attempt", "Bisection", "Setting"]

# Until they are measured, seconds.
_BUILD_S, _RUN_S = 600.0, 90.0
# Runs of the bad end that may pass before it must have shown what is searched for.
_FIRST = 30
# So many attempts in a row without a verdict are the lab's own trouble.
_TROUBLE = 6


class Setting(Struct, frozen=True, kw_only=True):
    """What was asked for: bisect.json."""

    history: History
    good: tuple[str, ...]
    bad: str
    target: str
    inventory: str
    test: str
    wanted: Wanted | None
    confidence: float
    unrelated: float
    seen: int
    seen_bad: int
    build: tuple[str, ...]
    under: str
    store: str
    install: tuple[str, ...]
    extra: tuple[str, ...]
    limit_s: float
    most_runs: int
    per_boot: int = 1
    """Runs that one boot may serve."""

    def assumed(self) -> Assumed:
        """As the search wants it."""
        return Assumed(self.confidence, self.unrelated, self.seen, self.seen_bad)

    def save(self, folder: Path) -> None:
        """Into a new bisect's folder."""
        write_json(folder / "bisect.json", self)

    @classmethod
    def load(cls, folder: Path) -> Setting:
        """Raises UsageError where `folder` is no bisect's."""
        if not (folder / "bisect.json").exists():
            raise UsageError(
                "not a bisect: it has no bisect.json", where=str(folder), cure="give its folder"
            )
        return msgspec.convert(read_json(folder / "bisect.json"), cls)


class Attempt(Struct, frozen=True, kw_only=True):
    """One attempt at a commit, as the journal has it."""

    commit: int
    kind: Any
    reason: str
    run: str = ""
    seconds: float = 0.0
    kernel: str = ""
    builds: dict[str, str] = {}
    test_s: float = 0.0
    """Of `seconds` the test's own, where its boot served several."""
    left: int = 0
    """Answers of the same boot that come after it."""


class Bisection:
    """Runs until it is sure, or knows that it will not be."""

    def __init__(
        self,
        setting: Setting,
        folder: Path,
        workshop: Workshop,
        known: Callable[[str], bool],
        runner: Runner,
        say: Callable[[str], None],
    ) -> None:
        """`known`: whether a commit's kernel is there already; `say` shows a line of progress."""
        self.setting, self.folder = setting, folder
        self.search = Search(setting.history.dag(), setting.assumed())
        self.wanted = setting.wanted
        self.attempts: list[Attempt] = []
        self.stopped = ""
        """Why it ended without being sure, in words."""
        self._workshop, self._known, self._runner, self._say = workshop, known, runner, say
        self.fresh_only = setting.per_boot == 1
        """Whether only the first run of a boot counts."""
        self._told: list[tuple[int, bool, bool]] = []
        self._builds: list[float] = []
        self._journal = Journal(folder / "journal.jsonl")
        self._replay()

    def go(self) -> Answer:
        """To the end.  Raises LabError where the lab is broken; go on with a new one then."""
        while (commit := self._choose()) is not None:
            self._attempt(commit)
            self._check_lab()
        answer = self.search.answer()
        self._journal.add("end", sure=answer.sure, members=answer.members, why=self.stopped)
        return answer

    def close(self) -> None:
        """Leave the journal."""
        self._journal.close()

    # -- inside ----------------------------------------------------------------

    def _replay(self) -> None:
        begun: dict[str, Any] = {}
        heard = 0
        for entry in journal.read(self.folder / "journal.jsonl"):
            if entry["what"] == "answer":
                told = msgspec.convert(entry, Attempt)
                self._take(told)
                # What was still to be told of that boot is heard again.
                begun, heard = (begun, heard + 1) if told.left else ({}, 0)
            elif entry["what"] == "wanted":
                self.wanted = msgspec.convert(entry["finding"], Wanted)
            elif entry["what"] == "built":
                self._builds.append(entry["seconds"])
            elif entry["what"] == "run":
                begun, heard = entry, 0
        if self.attempts:
            self._say(f"resumed after {len(self.attempts)} attempts")
        if begun:
            # It may have been killed between the run's end and our line about it.
            found = self._runner.found(self.folder / begun["run"])
            each = self._hear(Ran(found), begun["builds"])
            if heard or any(one.kind != "none" for one in each):
                self._tell(each, begun["commit"], begun["run"], 0.0, begun["builds"], heard)

    def _choose(self) -> int | None:
        history = self.setting.history
        runs = [one for one in self.attempts if one.kind in ("bad", "good", "other")]
        if len(runs) >= self.setting.most_runs:
            self.stopped = f"{len(runs)} runs are as many as were allowed (--most-runs)"
            return None
        if self.wanted is None:
            # What the bad end shows is what is searched for; until then nothing else is told.
            tries = sum(1 for one in self.attempts if one.commit == len(history) - 1)
            if tries < _FIRST:
                return len(history) - 1
            self.stopped = f"{self.setting.bad} did not fail in {tries} attempts: nothing to find"
            return None
        chosen = self.search.next(self._price())
        if chosen is None and not self.search.answer().sure:
            self.stopped = "no commit that can be run would tell more"
        elif chosen is None and not any(one.kind == "bad" for one in self.attempts):
            return self._unseen()
        return chosen

    def _unseen(self) -> int | None:
        """It is sure, but only of what is good: no culprit is named that nobody saw fail."""
        barren = self.search.barren()
        newest = [one for one in self.search.answer().members if one not in barren]
        culprit = newest[-1] if newest else len(self.setting.history) - 1
        if sum(1 for one in self.attempts if one.commit == culprit) < _FIRST:
            return culprit
        self.stopped = "no run of any commit showed the finding"
        return None

    def _attempt(self, commit: int) -> None:
        one = self.setting.history.commits[commit]
        self._say(f"{self.search.bits():.1f} bits to go; next {self.setting.history.label(commit)}")
        new, began = not self._known(one.id), time.monotonic()
        try:
            kernel = self._workshop.get(one.id)
        except Unbuildable as error:
            self._tell([Heard(kind="unbuildable", reason=error.what)], commit, "", 0.0, {})
            return
        if new:
            self._builds.append(time.monotonic() - began)
            self._journal.add("built", commit=commit, seconds=self._builds[-1])
        ahead = self.search.ahead(self._price(), commit)
        self._workshop.expect([self.setting.history.commits[later].id for later in ahead])
        self._run(commit, kernel)

    def _run(self, commit: int, kernel: Kernel) -> None:
        place = f"runs/{len(list((self.folder / 'runs').glob('*'))):04}"
        self._journal.add("run", commit=commit, run=place, builds=kernel.builds)
        began = time.monotonic()
        tries = self.search.tries(self._price(), commit) if self.wanted is not None else 1
        ran = self._runner.run(kernel, self.folder / place, tries)
        heard = self._hear(ran, kernel.builds)
        self._tell(heard, commit, place, time.monotonic() - began, kernel.builds)

    def _hear(self, ran: Ran, builds: dict[str, str]) -> list[Heard]:
        if ran.run is None or ran.trouble:
            return [Heard(kind="none", reason=ran.trouble or "the session made no run")]
        return hear_each(ran.run, self.setting.test, self.wanted, builds)

    def _tell(
        self,
        heard: list[Heard],
        commit: int,
        run: str,
        seconds: float,
        builds: dict[str, str],
        told: int = 0,
    ) -> None:
        """The answers of one boot, on disk before they count; the first bears what is common."""
        common = max(0.0, seconds - sum(one.seconds for one in heard)) if seconds else 0.0
        for number, one in enumerate(heard):
            if number >= told:
                took = one.seconds + (0.0 if number else common)
                left = len(heard) - number - 1
                self._note(one, left, commit, run, took if seconds else 0.0, builds)

    def _note(
        self, heard: Heard, left: int, commit: int, run: str, seconds: float, builds: dict[str, str]
    ) -> None:
        told = Attempt(
            commit=commit, kind=heard.kind, reason=heard.reason, run=run, seconds=seconds,
            kernel=heard.kernel, builds=builds, test_s=heard.seconds, left=left,
        )  # fmt: skip
        if heard.wanted is not None and (self.wanted is None or not self.wanted.diagnosis):
            known = self.wanted or heard.wanted
            self.wanted = msgspec.structs.replace(
                known, title=heard.wanted.title, diagnosis=heard.wanted.diagnosis
            )
            self._journal.add("wanted", finding=msgspec.to_builtins(self.wanted))
        self._journal.add("answer", **msgspec.to_builtins(told))
        self._take(told)
        self._say(f"  {heard.kind}: {heard.reason or 'passed'}")

    def _take(self, told: Attempt) -> None:
        self.attempts.append(told)
        used = len(self.attempts) > 1 and bool(told.run) and self.attempts[-2].run == told.run
        if told.kind in ("bad", "good"):
            self._told.append((told.commit, used, told.kind == "bad"))
        if not (used and self.fresh_only):
            self.search.record(told.commit, told.kind)
        if not self.fresh_only and shows_less(self._told):
            # What used boots did not show proves nothing: begin again without them.
            self.fresh_only = True
            self._say("used boots show it less than fresh ones: one run a boot from now on")
            known, self.attempts, self._told = self.attempts, [], []
            self.search = Search(self.setting.history.dag(), self.setting.assumed())
            for one in known:
                self._take(one)

    def _price(self) -> Price:
        commits = self.setting.history.commits
        build = float(np.mean(self._builds[-8:])) if self._builds else _BUILD_S
        known = np.array([self._known(one.id) for one in commits])
        before = np.where(known, 0.0, build)
        ran = [one for one in self.attempts if one.seconds]
        boots = len({one.run for one in ran})
        whole = sum(one.seconds for one in ran)
        if self.fresh_only or not boots:
            return Price(before, whole / boots if boots else _RUN_S)
        test = float(np.mean([one.test_s for one in ran if one.test_s] or [whole / len(ran)]))
        boot = max(0.0, whole - test * len(ran)) / boots
        return Price(before, test, boot, self.setting.per_boot)

    def _check_lab(self) -> None:
        last = [one.kind for one in self.attempts[-_TROUBLE:]]
        if last == ["none"] * _TROUBLE:
            raise LabError(
                f"{_TROUBLE} attempts in a row gave no verdict: {self.attempts[-1].reason}",
                where=str(self.folder / self.attempts[-1].run),
                cure=f"see pytest.txt there, mend the lab, then: lab bisect --resume {self.folder}",
            )


def tallies(attempts: list[Attempt]) -> Iterator[tuple[int, dict[str, int]]]:
    """For each commit that was tried, in order, how often it gave what."""
    found: dict[int, dict[str, int]] = {}
    for one in attempts:
        mine = found.setdefault(one.commit, {})
        mine[one.kind] = mine.get(one.kind, 0) + 1
    yield from sorted(found.items())
