"""Titles and signatures of known reports, as they are to stay for one version of their rules.

`python -m harness.tests.golden` writes the table anew, for a higher signature.VERSION alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness.kernel import signature
from harness.kernel.formats import read
from harness.kernel.splats import find
from harness.tests.reports import REPORTS, printed

__all__ = ["TABLE", "now", "recorded"]

TABLE = Path(__file__).parent / "unit" / "data" / "signatures.json"


def now() -> dict[str, list[str]]:
    """Of each report in harness.tests.reports: its title and its signature less the version."""
    told = {}
    for kind, (lines, _) in REPORTS.items():
        (splat,) = find(read(b"".join(printed(lines))))
        told[kind] = [splat.title, splat.signature.partition("-")[2]]
    return told


def recorded() -> dict[str, Any]:
    """The table: "version" and "reports"."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


if __name__ == "__main__":
    if TABLE.exists() and recorded()["version"] >= signature.VERSION:
        sys.exit("raise VERSION in harness/kernel/signature.py, then write the table anew")
    TABLE.write_text(json.dumps({"version": signature.VERSION, "reports": now()}, indent=1) + "\n")
