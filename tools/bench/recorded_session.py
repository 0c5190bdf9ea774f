"""A session that hangs no GPU: leaves the run directory that one would have left, and ends.

Stands in for pytest where everything around it is measured; stdlib only, so that it starts
in a moment.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["record"]

# As harness.verdict writes one of a test that recovered from a hang.
VERDICT = {
    "outcome": "pass",
    "reason": "",
    "lockdep": "armed",
    "findings": [
        {"kind": "recovery", "severity": "note", "title": title, "signature": sign,
         "place": {"boot_id": "b0", "stream": "kmsg", "first": 1, "last": 1},
         "text": "amdgpu 0000:00:03.0: amdgpu: " + 60 * "x", "explanation": ""}
        for title, sign in (("hang", "bb0a9e70530f"), ("reset-done on gfx_0.0.0", "d804bc1fead1"))
    ],
    "seconds": 4.5, "fences": "accounted", "known": [], "fixed": [],
    "times": {"tdr": 2.1, "recovery": 0.3, "fence": 0.01},
}  # fmt: skip


def record(runs: Path, night: str, target: str, tests: int, pause: float = 0.0) -> None:
    """A run of `target` with so many tests, each of which takes `pause` seconds."""
    now = datetime.now(UTC)
    path = runs / f"{now.strftime('%Y%m%dT%H%M%SZ')}-{target}-{abs(hash(target)) % 16**6:06x}"
    (path / "tests").mkdir(parents=True)
    facts = {
        "target": {"name": target, "driver": "amdgpu"},
        "kernel": {"uname": {"release": "6.12.1", "version": "#1 SMP"}},
        "boots": ["b0"],
        "night": night,
    }
    (path / "run.json").write_text(json.dumps(facts))
    with (path / "journal.jsonl").open("w", buffering=1) as journal:

        def add(what: str, **more: object) -> None:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            journal.write(json.dumps({"time": at, "what": what, **more}) + "\n")

        add("run-start", target=target)
        for number in range(tests):
            # No character that harness.evidence.rundir.slug would change.
            test = f"testcases/test_hang.test_recovers_{number}"
            add("test-start", test=test, boot="b0")
            time.sleep(pause)
            place = path / "tests" / test.removeprefix("testcases/")
            place.mkdir()
            (place / "verdict.json").write_text(json.dumps({"test": test, **VERDICT}))
            add("test-end", test=test, outcome="pass", reason="")
        add("run-end", how="done")


def main(argv: list[str]) -> None:
    """As pytest is called, and the number of tests and the pause at the end."""
    given = dict(word.removeprefix("--").split("=", 1) for word in argv if word.startswith("--"))
    tests, pause = int(given["count"]), float(given["storm"])
    record(Path(given["runs"]), given["night"], given["target"], tests, pause)


if __name__ == "__main__":
    main(sys.argv[1:])
