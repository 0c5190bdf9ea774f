"""The harness catches what simgpu does wrong, and says nothing when it does not.

A few rows of the matrix; all of it is `lab test --matrix`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tests.vm import matrix

SAMPLE = ("own_lock", "fence_no_error", "recovery_fails")


def check(faults: list[str], directory: Path) -> None:
    results, printed = matrix.measure(faults, directory)
    problems = [(result.row, result.problem) for result in results if result.problem]
    assert not problems, printed
    assert {result.row.fault for result in results} == set(faults)


def test_a_sample_of_the_matrix_is_as_expected(tmp_path: Path) -> None:
    check(list(SAMPLE), tmp_path)


@pytest.mark.deep
def test_the_whole_matrix_is_as_expected(tmp_path: Path) -> None:
    check([row.fault for row in matrix.ROWS], tmp_path)
