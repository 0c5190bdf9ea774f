"""The catalogue, and what every testcase must tell of itself."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from harness.lab.catalogue import LONGEST, PLACES, command, entries
from harness.tests.inner import ROOT

TESTCASES = ROOT / "testcases"
SAMPLE = '''
def helper(x: int) -> int:
    """Not counted."""
    return deeper(x)


def deeper(x: int) -> int:
    return x


def test_it() -> None:
    """The clause | of
    two lines.

    Source: kernel/a.c f(),
    kernel/b.c.
    Runs on: sim-navi (slow), generic.
    """
    assert helper(1)
'''


def test_a_docstring_is_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (entry,) = entries(tmp_path)
    assert entry.clause == "The clause | of two lines"
    assert entry.source == "kernel/a.c f(), kernel/b.c"
    assert entry.places == "sim-navi (slow), generic"
    assert entry.lines == 2 + 2 + 2, "with both helpers, without docstrings"
    printed = CliRunner().invoke(command, [str(tmp_path)]).output.splitlines()
    assert printed[-1].startswith("| sample: `test_it` | The clause \\| of two lines | kernel/a.c")


def test_every_testcase_says_what_it_holds_the_kernel_to() -> None:
    found = list(entries(TESTCASES))
    assert len(found) > 10
    for entry in found:
        told = f"{entry.file}: {entry.test}"
        assert entry.clause, told
        assert entry.source, f"{told}: no kernel source"
        assert any(place in entry.places for place in PLACES), f"{told}: runs nowhere"


def test_every_contract_can_be_read_at_a_glance() -> None:
    long = {f"{e.file}: {e.test}": e.lines for e in entries(TESTCASES) if e.lines > LONGEST}
    assert not long, f"more than {LONGEST} lines, private helpers counted"
