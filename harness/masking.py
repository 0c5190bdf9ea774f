"""Masking: lockdep stops at its first report of a boot, a known one too.

Which known issue it was that left a boot blind, so that what ran there says what it could not
see; and an order of tests in which those that need no lockdep share such a boot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from harness.errors import LabError
from harness.evidence import journal
from harness.evidence.files import read_json
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.known import KnownIssues

__all__ = ["masker", "order"]

T = TypeVar("T")


def masker(run: RunDir, boot_id: str, test: str = "") -> tuple[str, str]:
    """The known issue that switched lockdep off in that boot, before `test`, and the test that met
    it; ("", "") where it was none."""
    for earlier in _suspects(run, boot_id):
        if earlier == test:
            break
        window, judged = _json(run, earlier, "window"), _json(run, earlier, "verdict")
        if window.get("boot_id") == boot_id and judged.get("lockdep") == "went off":
            # The first report is the one that did it; unknown ones are nobody's mask.
            known = judged.get("known") or [""]
            return (str(known[0]), earlier) if judged.get("outcome") == "xfail" else ("", "")
    return "", ""


def _suspects(run: RunDir, boot_id: str) -> list[str]:
    """Tests of that boot that may have switched lockdep off, by the journal alone: in a long boot
    that was blind from its start each would else read all that ran before it."""
    begun: dict[str, str] = {}
    ended: dict[str, str] = {}
    for entry in journal.read(run.journal.path):
        if entry["what"] == "test-start":
            begun[entry["test"]] = entry.get("boot", boot_id)
        elif entry["what"] in ("test-end", "lockdep-late"):
            ended[entry["test"]] = entry.get("lockdep", "went off")
    return [
        test
        for test, boot in begun.items()
        if boot == boot_id and ended.get(test, "went off") == "went off"
    ]


def order(
    items: Iterable[T],
    known: KnownIssues,
    target: Callable[[T], Target | None],
    free: Callable[[T], bool],
) -> list[T]:
    """`items`, those that are `free` of lockdep last where a known issue may leave a boot of their
    target blind: then they share one."""
    first: list[T] = []
    last: list[T] = []
    for item in items:
        where = target(item)
        masked = where is not None and any(
            issue.signature and issue.driver in ("", where.driver) and issue.state != "ignore"
            for issue in known.issues.values()
        )
        (last if masked and free(item) else first).append(item)
    return [*first, *last]


def _json(run: RunDir, test: str, name: str) -> dict[str, Any]:
    path = run.test(test) / f"{name}.json"
    try:
        return dict(read_json(path)) if path.exists() else {}
    except LabError:
        return {}
