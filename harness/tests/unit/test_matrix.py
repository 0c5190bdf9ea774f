"""The detection matrix is whole: every switch of simgpu is in it, and README has its figures."""

from __future__ import annotations

import re
from pathlib import Path

from harness.tests.vm import matrix

ROOT = Path(__file__).parents[3]
# A row of sim_fault.c's table begins with the fault's name and kind.
_SWITCH = re.compile(r'\{\s*"(\w+)", "\w+", ')
_LINE = re.compile(r"^\| (?P<fault>\w+) \| (?P<testcase>\w+) \| (?P<finding>.+) \| (?P<s>\d+) \|$")


def test_rows_are_well_formed() -> None:
    names = [(row.fault, row.testcase) for row in matrix.ROWS]
    assert len(set(names)) == len(names)
    for row in matrix.ROWS:
        assert row.kind, row.fault
        assert row.names, row.fault
        assert row.parameter == "" or all(row.parameter.partition("=")), row.fault


def test_every_switch_of_simgpu_has_a_testcase_that_catches_it() -> None:
    table = (ROOT / "tools/simgpu/sim_fault.c").read_text()
    counted = re.findall(r"^\t\[SIM_FAULT_\w+\] = \{", table, re.MULTILINE)
    switches = _SWITCH.findall(table)
    assert len(switches) == len(counted) > 30
    assert {row.fault for row in matrix.ROWS if not row.parameter} == set(switches)


def test_readme_has_every_row_as_it_was_measured() -> None:
    found = [match for line in readme() if (match := _LINE.match(line))]
    shown = [(match["fault"], match["testcase"]) for match in found]
    assert shown == [(row.fault, row.testcase.rpartition("::")[2]) for row in matrix.ROWS]
    for row, match in zip(matrix.ROWS, found, strict=True):
        assert match["finding"].startswith(f"{row.kind}: "), row
        assert row.kind == "lockdep" or row.names in match["finding"], row


def readme() -> list[str]:
    text = (ROOT / "README.md").read_text()
    table = text.partition("| fault | caught by | finding | s |")[2].partition("\n\n")[0]
    return table.replace(r"\_", "_").splitlines()
