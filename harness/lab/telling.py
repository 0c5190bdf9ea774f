"""What a person at a terminal is told: of a target when it is reached, of a test when it failed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.lab.visible import visible
from harness.live.dut import Dut
from harness.verdict import Verdict

__all__ = ["headline", "of_issues", "tell"]

# Of what a dead machine said last, in lines.
LAST_LINES = 15


def tell(
    judged: Verdict,
    *,
    shown: dict[str, str],
    last_words: str,
    evidence: Path,
    rerun: Sequence[str],
) -> str:
    """The reason, each finding as the kernel printed it, and the ways on.

    `shown` is the test in which each signature was shown first, and grows.
    """
    lines = [judged.reason, ""]
    for finding in judged.findings:
        if finding.severity == "note":
            lines.append(f"note: {finding.title}")
            continue
        lines.append(f"{finding.kind} [{finding.signature}] {finding.title}")
        # A report that comes again is shown once: the second copy would bury what is new.
        first = shown.setdefault(finding.signature, judged.test)
        if first != judged.test:
            lines += [f"(the same as in {first})", ""]
        else:
            explained = [finding.explanation, ""] if finding.explanation else []
            lines += [*explained, finding.text, ""]
    if judged.outcome == "incomplete" and all(f.severity == "note" for f in judged.findings):
        lines += [f"last console line: {line}" for line in last_words.splitlines()[-LAST_LINES:]]
    lines += [f"evidence: {evidence}", f"rerun:    {shlex.join(rerun)}"]
    return visible("\n".join(lines))


def headline(dut: Dut) -> str:
    """The target, its kernel, its GPU, whether lockdep is armed, and which boot it is."""
    kernel = dut.facts["uname"]["release"]
    armed = {1: "armed", 0: "off", None: "not in this kernel: every test is blind"}
    try:
        card = dut.card
        gpu = f"{card['driver']} {card['pci']} [{card['vendor']:04x}:{card['device']:04x}]"
    except HarnessError as error:
        gpu = error.what
    locks = armed[dut.health()["debug_locks"]]
    if "armed" in locks:
        locks += f" and {dut.coverage().priming()}"
    return f"{dut.target.name}: Linux {kernel}, {gpu}, lockdep {locks}, boot {dut.boot_id[:8]}"


def of_issues(judged: Sequence[Verdict]) -> list[str]:
    """A line for each known issue that a run met, and for each that it should have and did not."""
    lines = []
    for name in sorted({name for verdict in judged for name in verdict.known}):
        count = sum(name in verdict.known for verdict in judged)
        lines.append(f"known    {name} in {count} test{'s' if count > 1 else ''}")
    failing = {name for verdict in judged for name in verdict.known}
    fixed = [(name, verdict.test) for verdict in judged for name in verdict.fixed]
    for name, test in fixed:
        if name not in failing:
            lines.append(f"fixed?   {name} did not show in {test}")
    return lines
