"""Health: whether a target is fit for the next test, by what is known of it after the last one.

A pure function of two looks at it and of that test's findings; harness/live/healing.py acts on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from harness.evidence.finding import Finding

__all__ = ["Ailment", "ailments"]

# Documentation/admin-guide/tainted-kernels.rst: what a kernel does not get over.
_TAINTS = {7: "the kernel has oopsed (taint D)", 14: "a CPU was locked up (taint L)"}
# Kinds of findings after which some processor or task is lost to this boot.
_DEADLY = ("oops", "hard_lockup", "soft_lockup", "hung_task")


class Ailment(NamedTuple):
    """What is wrong, and who has it: only the GPU, a task that may yet move, or the machine."""

    of: Literal["gpu", "task", "machine"]
    text: str


def ailments(
    before: Mapping[str, Any], after: Mapping[str, Any], device: str, findings: Iterable[Finding]
) -> tuple[Ailment, ...]:
    """What `after` (as the agent's health tells it) has that no test should meet; `before` is the
    look before the test, `device` the card's."""
    found = []
    taint = after.get("taint") or 0
    found += [Ailment("machine", text) for bit, text in _TAINTS.items() if taint >> bit & 1]
    already = {task["pid"] for task in before.get("stuck", ())}
    for task in after.get("stuck", ()):
        if task["pid"] not in already:
            text = f"{task['comm']} (pid {task['pid']}) sleeps uninterruptibly"
            found.append(Ailment("task", text))
    for finding in findings:
        if finding.severity != "fail":
            continue
        if finding.kind.partition(".")[0] in _DEADLY:
            found.append(Ailment("machine", finding.title))
        elif finding.kind == "recovery" and finding.title.startswith(("reset-failed", "wedged")):
            found.append(Ailment("gpu", finding.title))
    # Of a window that was not closed well there is no second look.
    if device in before.get("devices", ()) and device not in after.get("devices", [device]):
        found.append(Ailment("gpu", f"{device} is gone"))
    return tuple(dict.fromkeys(found))
