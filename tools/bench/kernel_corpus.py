"""Scores harness/kernel on a folder of real logs with expected answers (manifest.jsonl).

Says for every figure out of how many; nothing of the logs is kept here.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.kernel import cycle, formats, lockdep, resets, splats
from harness.kernel.splats import Splat
from tools.bench import kernel_noise

__all__ = ["Case", "Score", "load", "score"]

# What a collection calls by another word than we do: the collection's, then ours.
SAME = {
    "other_bug": (
        "other_bug",
        "oops",
        "double_fault",
        "lockdep.off",
        "list_corruption",
        "kernel_bug",
    ),
    "kernel_bug": ("kernel_bug", "list_corruption"),
    "lockdep.internal": ("lockdep.internal", "lockdep.wait_context"),
    "lockdep.irq_inversion": ("lockdep.irq_inversion", "lockdep.irq_unsafe"),
    "gpu.job_timeout": ("gpu.job_timeout", "gpu.hang"),
}
SAME["any BUG:"] = (*SAME["other_bug"], "oops", "atomic_sleep", "workqueue_lockup")
# Of the programs that drove a kernel, not of the kernel: left out, and counted.
NOT_KERNEL = ("syz_internal", "reboot")


@dataclass(frozen=True)
class Case:
    """One log of the corpus."""

    id: str
    source: str
    kinds: tuple[str, ...]
    title: str
    role: str
    group: str
    corrupted: bool
    alternatives: tuple[str, ...]
    text: bytes
    report: str
    """The exact text that must come out of the first report, where the collection has it."""


@dataclass
class Score:
    """Hits out of tries, by name; `missed` names the cases, for who wants to see them."""

    hits: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tries: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    missed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def count(self, name: str, hit: bool, who: str) -> None:
        """One try."""
        self.tries[name] += 1
        self.hits[name] += hit
        if not hit:
            self.missed[name].append(who)


def load(folder: Path) -> list[Case]:
    """The cases of `folder`.  Raises UsageError where there is no manifest."""
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise UsageError(
            "no manifest.jsonl in this folder",
            where=str(folder),
            cure="name a folder of logs with a manifest: --corpus DIR",
        )
    rows = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]
    return [case for row in rows if (case := _case(folder, row)) is not None]


def _case(folder: Path, row: Mapping[str, Any]) -> Case | None:
    path = folder / row["path"]
    if not path.is_file():
        return None
    expected = row.get("expected") or {}
    text = path.read_bytes()
    start = expected.get("log_starts_at_line")
    if start:
        text = b"\n".join(text.split(b"\n")[start - 1 :])
    report = ""
    if row["source"] == "syzkaller" and b"\nREPORT:\n" in text:
        text, _, exact = text.partition(b"\nREPORT:\n")
        report = exact.decode("utf-8", "replace")
    return Case(
        id=row["id"],
        source=row["source"],
        kinds=tuple(row.get("kinds") or ()),
        title=row.get("title") or "",
        role=row["role"],
        group=row.get("group") or expected.get("same_signature") or "",
        corrupted=bool(expected.get("corrupted")),
        alternatives=tuple(expected.get("alt") or ()),
        text=text,
        report=report or _right(folder, expected),
    )


def _right(folder: Path, expected: Mapping[str, Any]) -> str:
    name = expected.get("expected_file", "")
    path = folder / name if name else None
    if path is None or not path.is_file():
        return ""
    text = path.read_text(errors="replace")
    if name.endswith(".right"):  # "abrt-dump-oops: Found oopses: 1", "", "Version: ..."
        return "\n".join(text.split("\n")[3:])
    return text if "calltrace" in name else ""


def reports(text: bytes) -> list[Splat]:
    """The reports of a log, in the order of their headers."""
    found = [s for s in splats.find(formats.read(text)) if s.severity == "fail"]
    return sorted(found, key=lambda splat: splat.records[0].seq)


def _events(text: bytes) -> set[str]:
    """The kinds of GPU events in a log."""
    kinds: set[str] = set()
    events = list(resets.trail(formats.read(text)))
    # i915 resets without a word of the hang where it captured an error state before.
    if resets.recoveries(events):
        kinds |= {"gpu.hang", "gpu.job_timeout"}
    for event in events:
        if event.step == "fault":
            kinds.add("gpu.page_fault")
        elif event.step.startswith("reset"):
            kinds.add("gpu.reset")
    return kinds


def _is(splat: Splat, kind: str) -> bool:
    return any(splat.kind == ours or splat.family == ours for ours in SAME.get(kind, (kind,)))


def score(cases: list[Case], rounds: int = 3) -> Score:
    """All figures over `cases`; noise is drawn `rounds` times, always the same."""
    result = Score()
    named: list[tuple[Case, Splat]] = []
    for case in cases:
        _cycles(case, result)
        if case.role == "negative":
            wrong = [splat.title for splat in reports(case.text)]
            result.count("clean logs without a report", not wrong, f"{case.id}: {wrong[:3]}")
        elif case.role in ("positive", "errorline") and case.kinds:
            splat = _recall(case, result)
            if splat is not None:
                _extraction(case, splat, result)
                _titles(case, splat, result)
                _stability(case, splat, result, rounds)
                named.append((case, splat))
        elif case.role == "errorline":
            result.count("error lines seen", bool(reports(case.text)), case.id)
    _pairs(named, result)
    return result


def _cycles(case: Case, result: Score) -> None:
    """Of circular reports: whether their locks came out, and of those whose chain the log does
    not cut off whether the whole cycle did."""
    for splat in reports(case.text):
        report = lockdep.parse(splat.lines) if splat.kind == "lockdep.circular" else None
        if report is None:
            continue
        found = cycle.cycle_of(report)
        who = f"{case.id}: {found.classes if found else report.title}"
        result.count("lock cycles, of all reports, cut ones too", found is not None, who)
        if any(link.depth == 0 for link in report.links):
            whole = found is not None and found.complete
            result.count("lock cycles whole, of chains printed to their end", whole, who)


def _recall(case: Case, result: Score) -> Splat | None:
    kind = case.kinds[0]
    if case.source == "kernelci-logspec" and kind == "kernel_bug":
        kind = "any BUG:"
    if kind in NOT_KERNEL:
        result.count("not of the kernel, left out", True, case.id)
        return None
    found = reports(case.text)
    if kind.startswith("gpu."):
        seen = kind in _events(case.text)
        result.count("recall, any place: gpu", seen, f"{case.id} {kind}")
        result.count("recall, any place: all types", seen, f"{case.id} {kind}")
        return None
    anywhere = next((splat for splat in found if _is(splat, kind)), None)
    got = ", ".join(f"{s.kind}" for s in found[:4])
    who = f"{case.id} {kind}: got {got or 'nothing'}"
    family = kind.split(".")[0]
    first = bool(found) and _is(found[0], kind)
    result.count("recall, any place: all types", anywhere is not None, who)
    result.count("recall, first: all types", first, who)
    result.count(f"recall, any place: {family}", anywhere is not None, who)
    return anywhere


_WHERE = re.compile(
    r" in (?P<name>[\w/]+)(?: at addr ADDR)?$|-\((?:\w+)\)-(?P<cros>\w+)-[0-9A-F]+$"
)


def _plain(name: str) -> str:
    return re.sub(r"^(?:__)?(?:x64_|ia32_|arm64_)?(?:sys|SyS|SYSC)_", "", name)


def _titles(case: Case, splat: Splat, result: Score) -> None:
    if not case.title or case.corrupted:
        return
    wanted = set()
    for title in (case.title, *case.alternatives):
        if match := _WHERE.search(title):
            wanted |= set((match["name"] or match["cros"]).split("/"))
    if not wanted or wanted == {"corrupted"}:
        return
    ours = {_plain(name) for name in splat.functions}
    hit = bool(ours & {_plain(name) for name in wanted})
    result.count("titles: function named", hit, f"{case.id} {case.title!r}: {splat.title!r}")


def _lines(text: str) -> list[str]:
    reader = (record for record in formats.read(text.encode()))
    return [" ".join(line.split()) for record in reader for line in record.lines() if line.strip()]


def _extraction(case: Case, splat: Splat, result: Score) -> None:
    if not case.report:
        return
    wanted = _lines(case.report)
    ours = {" ".join(line.split()) for line in splat.lines}
    ours |= {" ".join(line.split()) for other in reports(case.text) for line in other.lines}
    hits = sum(line in ours for line in wanted)
    result.tries["extraction: lines"] += len(wanted)
    result.hits["extraction: lines"] += hits
    if hits < len(wanted):
        lost = next(line for line in wanted if line not in ours)
        result.missed["extraction: lines"].append(f"{case.id}: {hits}/{len(wanted)}, {lost[:60]!r}")


def _stability(case: Case, splat: Splat, result: Score, rounds: int) -> None:
    first = reports(case.text).index(splat)
    for seed in range(rounds):
        for name, noise in kernel_noise.NOISES.items():
            dice = random.Random(f"{case.id}{name}{seed}")
            noisy = reports(noise(case.text, dice))
            same = len(noisy) > first and noisy[first].signature == splat.signature
            if not same:
                same = any(other.signature == splat.signature for other in noisy)
            result.count("stability: signature under noise", same, f"{case.id} {name}")
            if rounds > 1:
                result.count(f"stability: {name}", same, case.id)


def _pairs(named: list[tuple[Case, Splat]], result: Score) -> None:
    for (one, ours), (other, theirs) in combinations(named, 2):
        same = ours.signature == theirs.signature
        both = f"{one.id} / {other.id}: {ours.title!r} / {theirs.title!r}"
        if one.group and one.group == other.group:
            result.count("one bug, one signature (groups)", same, both)
        elif one.title and other.title and not (one.corrupted or other.corrupted):
            if one.title == other.title:
                result.count("pairs of one title, one signature", same, both)
            elif not set((one.title, *one.alternatives)) & set((other.title, *other.alternatives)):
                result.count("pairs of two titles, two signatures", not same, both)
