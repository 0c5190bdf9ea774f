"""One test of one run, as it lies on disk: what a mail, a bundle or a page about it is made of.

Finds it by RUN/TEST as a person writes that, and gathers its facts; judges nothing anew.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import HarnessError, UsageError
from harness.evidence.files import read_json
from harness.evidence.finding import Finding, signature
from harness.evidence.rundir import RunDir, Window
from harness.kernel.signature import steady
from harness.lab.ingest import OF_ITS_OWN
from harness.verdict import Verdict, slice_of

__all__ = ["Case", "Kernel", "boot_words", "case_of", "facts_of", "kernel_of", "named", "open_case"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """What ran, as run.json says: `release` is uname -r, `version` uname -v."""

    release: str = ""
    version: str = ""
    cmdline: str = ""
    config_hash: str = ""
    patches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a run.  `window` is None where the run died before it was opened."""

    run: RunDir
    facts: dict[str, Any]
    window: Window | None
    verdict: Verdict

    @property
    def test(self) -> str:
        """Its node id."""
        return self.verdict.test

    @property
    def directory(self) -> Path:
        """Where its evidence lies."""
        return self.run.test(self.test)

    @property
    def target(self) -> str:
        """The target's name; "" where the run died before it was written."""
        return str(self.facts.get("target", {}).get("name", ""))

    @property
    def driver(self) -> str:
        """The driver under test."""
        return str(self.facts.get("target", {}).get("driver", ""))

    @property
    def spot(self) -> str:
        """The run as a person in the directory above all runs names it."""
        path = self.run.path.absolute()
        return f"{path.parent.name}/{path.name}"

    @property
    def rerun(self) -> str:
        """The command that runs this test again."""
        target = [f"--target={self.target}"] if self.target else []
        return shlex.join(["pytest", self.test, *target, *boot_words(self.facts)])

    @property
    def gpus(self) -> list[str]:
        """A line for each GPU of the driver under test: PCI address, ids, what it is called."""
        return [
            f"{card.get('pci') or card.get('name')} [{card.get('vendor') or 0:04x}:"
            f"{card.get('device') or 0:04x}] rev {card.get('revision') or 0:02x}, "
            f"{card.get('driver')}"
            for card in self.facts.get("cards", [])
            if not self.driver or card.get("driver") == self.driver
        ]

    @property
    def failing(self) -> list[Finding]:
        """What it failed with: its failing findings, else what the test itself said."""
        found = [f for f in self.verdict.findings if f.severity == "fail"]
        if not found and self.verdict.outcome in OF_ITS_OWN:
            said = self.window.body_text if self.window else ""
            found = [_own(self.verdict, said)]
        return found

    def log(self) -> Iterator[Any]:
        """The kernel log of its window."""
        return slice_of(self.run.path, self.window) if self.window else iter(())


def _own(verdict: Verdict, said: str) -> Finding:
    """A failure without a finding, under the signature that the history gives it."""
    kind, title = OF_ITS_OWN[verdict.outcome], verdict.reason.split("\n")[0]
    return Finding(kind, "fail", title, signature(kind, steady(title)), None, said)


def open_case(path: Path) -> Case:
    """The one test that `path` names: RUN/TEST.  Raises UsageError where it names several."""
    run, tests = named(path)
    if len(tests) != 1:
        raise UsageError(
            f"{len(tests)} tests, where one is needed",
            where=str(path),
            cure=f"name one: {run.path.name}/TEST, one of: {', '.join(tests)}",
        )
    return case_of(run, tests[0])


def case_of(run: RunDir, test: str, facts: dict[str, Any] | None = None) -> Case:
    """One test of an open run; `facts` are its run.json, where they are at hand.

    Raises LabError where its window or verdict cannot be read.
    """
    directory = run.test(test)
    path = directory / "window.json"
    window = msgspec.convert(read_json(path), Window) if path.exists() else None
    path = directory / "verdict.json"
    if path.exists():
        verdict = msgspec.convert(read_json(path), Verdict)
    else:
        verdict = Verdict(test, "incomplete", "the harness ended during this test", "blind")
    return Case(run, facts_of(run) if facts is None else facts, window, verdict)


def facts_of(run: RunDir) -> dict[str, Any]:
    """run.json, or nothing where the run died before it was written: a report is still due."""
    try:
        return run.facts()
    except HarnessError:
        return {}


def boot_words(facts: dict[str, Any]) -> list[str]:
    """What has pytest boot the kernel that a run was given, as its run.json says; nothing where it
    was the target's own."""
    directory = facts.get("boot", "")
    return [f"--boot={directory}"] if directory else []


def kernel_of(facts: dict[str, Any]) -> Kernel:
    """The kernel in a run.json."""
    told, machine = facts.get("kernel", {}), facts.get("machine", {})
    uname = told.get("uname", {})
    config = machine.get("config_hash") or told.get("config", {}).get("sha256", "")
    return Kernel(
        release=uname.get("release", ""),
        version=uname.get("version", ""),
        cmdline=told.get("cmdline", ""),
        config_hash=config,
        patches=tuple(patch["name"] for patch in machine.get("patches", [])),
    )


def named(path: Path) -> tuple[RunDir, list[str]]:
    """What `path` names: a run directory and all its tests, one of its tests' directories, or
    RUN/TEST with the test's node id, or its end.  Raises UsageError where it is neither."""
    for root in (path, *path.parents):
        if (root / "journal.jsonl").exists():
            break
    else:
        raise UsageError(
            "not in a run directory",
            where=str(path),
            cure="give RUN or RUN/tests/TEST, under runs/",
        )
    run = RunDir.open(root)
    rest = str(path.relative_to(root))
    known = run.tests()
    if rest == ".":
        return run, known
    wanted = [test for test in known if rest in (test, f"tests/{run.test(test).name}")]
    wanted = wanted or [test for test in known if test.endswith(rest)]
    if not wanted:
        raise UsageError(
            "no such test in this run", where=str(path), cure=f"one of: {', '.join(known)}"
        )
    return run, wanted
