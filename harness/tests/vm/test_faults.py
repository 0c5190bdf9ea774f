"""Injected faults cost their own test alone; the table is `lab test --faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tests.vm import faults, sandbox
from harness.tests.vm.victims.faults import FAULTS
from harness.verdict import OUTCOMES


def test_rows_are_well_formed() -> None:
    names = [row.fault for row in faults.ROWS]
    assert len(set(names)) == len(names)
    assert set(names) == set(FAULTS) | set(faults.SINGLE)
    assert {row.outcome for row in faults.ROWS} <= set(OUTCOMES)
    assert {row.after for row in faults.ROWS} == {"pass", "unfit"}


@pytest.mark.deep
def test_the_whole_table_is_as_wanted(tmp_path: Path) -> None:
    if not sandbox.allowed():
        pytest.skip("a network and a disk of its own need user namespaces, or root")
    results, printed = faults.measure([row.fault for row in faults.ROWS], tmp_path, deep=True)
    # How long a loaded machine takes is no matter of right and wrong; the table itself says.
    wrong = [
        (r.row.fault, r.problem) for r in results if r.problem and "lost more" not in r.problem
    ]
    assert not wrong, printed
