"""A night on disk: its folder under RUNS/nights, and the journal that it can be taken up from.

The journal has a line when the night and each target's process start and end, fsynced, so that
whatever died, what is left to do is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from harness.errors import LabError, UsageError
from harness.evidence import journal
from harness.evidence.files import disk_error, read_json
from harness.evidence.journal import Journal
from harness.lab.ingest import NIGHTS
from harness.lab.reservation import started

__all__ = ["NightDir", "Plan", "chosen", "newest", "run_of"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a night is to do: which targets, and what pytest is asked there."""

    targets: tuple[str, ...]
    args: tuple[str, ...]


@dataclass
class NightDir:
    """One night.  `done` says of each target whose tests have all been run why they may have
    come to nothing, ""; those are not started again.  `leaving`: sessions of a night that was
    killed, which may still be at their end, by pid and when that started."""

    path: Path
    plan: Plan
    journal: Journal
    done: dict[str, str] = field(default_factory=dict)
    leaving: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As runs and history know it."""
        return self.path.name

    @classmethod
    def create(cls, runs: Path, plan: Plan) -> Self:
        """A new night, named by UTC time.  Raises LabError when the disk refuses."""
        name = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = runs / NIGHTS / name
        try:
            (runs / NIGHTS).mkdir(parents=True, exist_ok=True)
            number = 1
            while path.exists():  # two in one second
                number += 1
                path = path.with_name(f"{name}-{number}")
            path.mkdir()
        except OSError as error:
            raise disk_error(path, error) from error
        made = cls(path, plan, Journal(path / "night.jsonl"))
        made.journal.add("night-start", targets=plan.targets, args=plan.args)
        return made

    @classmethod
    def resume(cls, path: Path) -> Self:
        """An earlier night, to do what it left.  Raises UsageError where `path` is none."""
        plan, done = None, {}
        leaving: dict[str, tuple[int, int]] = {}
        for entry in journal.read(path / "night.jsonl"):
            if entry["what"] == "night-start":
                plan = Plan(tuple(entry["targets"]), tuple(entry["args"]))
            elif entry["what"] == "target-start":
                leaving[entry["target"]] = (entry["pid"], entry.get("began", 0))
            elif entry["what"] == "target-end":
                leaving.pop(entry["target"], None)
                if entry.get("done"):
                    done[entry["target"]] = entry["why"]
        if plan is None:
            raise UsageError(
                "not a night: its journal has no beginning",
                where=str(path),
                cure="give a folder under RUNS/nights",
            )
        made = cls(path, plan, Journal(path / "night.jsonl"), done, leaving)
        made.journal.add("night-start", targets=plan.targets, args=plan.args)
        return made

    def left(self) -> list[str]:
        """Targets that are still to be tested."""
        return [target for target in self.plan.targets if target not in self.done]

    def held(self) -> list[str]:
        """Targets that a session of this very night still holds."""
        return [
            target
            for target, (pid, began) in self.leaving.items()
            if began and started(pid) == began
        ]

    def log(self, target: str) -> Path:
        """Where what a target's pytest prints goes."""
        return self.path / f"{target}.log"

    def started(self, target: str, pid: int, resumed: Path | None) -> None:
        """A target's process runs."""
        where = str(resumed) if resumed else ""
        # The number alone may be another's by the time that somebody asks.
        began = started(pid)
        self.journal.add("target-start", target=target, pid=pid, began=began, resumed=where)

    def ended(self, target: str, why: str, *, done: bool, elsewhere: str = "") -> None:
        """It has ended; `why` it did not do all that was asked, "".  Not `done`, it goes on when
        the night is taken up again.  `elsewhere`: who tested it in our stead, in a night of its
        own."""
        more = {"elsewhere": elsewhere} if elsewhere else {}
        self.journal.add("target-end", target=target, why=why, done=done, **more)

    def close(self, how: str) -> None:
        """The night is over, or interrupted."""
        self.journal.add("night-end", how=how)
        self.journal.close()


def newest(runs: Path) -> Path:
    """The newest night under `runs`.  Raises UsageError where there is none."""
    folder = runs / NIGHTS
    found = sorted(path for path in folder.glob("*") if (path / "night.jsonl").exists())
    if not found:
        raise UsageError(
            "there is no night to go on with", where=str(folder), cure="lab nightly, without it"
        )
    return found[-1]


def run_of(runs: Path, night: str, target: str, seen: Iterable[str] = ()) -> Path | None:
    """The newest run directory of `target` in `night`; names in `seen` are not looked at.

    None while there is none.
    """
    passed = set(seen)
    with os.scandir(runs) as entries:
        names = [e.name for e in entries if f"-{target}-" in e.name and e.name not in passed]
    for path in (runs / name for name in sorted(names, reverse=True)):
        try:
            facts = read_json(path / "run.json")
        except LabError:
            continue  # not written yet, or its session died before that
        if (facts.get("night"), facts.get("target", {}).get("name")) == (night, target):
            return path
    return None


def chosen(tags: Sequence[str], all_targets: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """The names of targets that `tags` mean, by name or tag; all without any."""
    listed = list(all_targets)
    wrong = set(tags) - {word for name, tagged in listed for word in (name, *tagged)}
    if wrong:
        raise UsageError(
            f"no target has the name or tag {', '.join(sorted(wrong))}",
            where="--targets",
            cure="see lab targets",
        )
    return [name for name, tagged in listed if not tags or {name, *tagged} & set(tags)]
