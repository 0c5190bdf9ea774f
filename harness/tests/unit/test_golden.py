"""Nobody changes signatures without knowing it."""

from __future__ import annotations

from harness.kernel import signature
from harness.tests import golden
from harness.tests.reports import REPORTS

CURE = "raise signature.VERSION, mend known-issues.toml, run python -m harness.tests.golden"


def test_known_reports_keep_their_names_and_signatures() -> None:
    table = golden.recorded()
    told = golden.now()
    changed = {kind: told.get(kind) for kind, was in table["reports"].items() if told[kind] != was}
    assert not changed, CURE
    assert table["version"] == signature.VERSION, CURE
    assert set(told) == set(table["reports"]), f"a new report: {CURE}"
    assert len({sign for _, sign in told.values()}) == len(REPORTS)
