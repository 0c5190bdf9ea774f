"""KTAP out of kernel logs: nested, interrupted, of two generations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.kernel.ktap import Subtest, parse

KUNIT = """\
KTAP version 1
1..2
    KTAP version 1
    # Subtest: foo_buddy
    # module: foo_buddy_test
    1..3
    # foo_limit: EXPECTATION FAILED at drivers/foo/test.c:12
    Expected a == b
    not ok 1 foo_limit
        KTAP version 1
        # Subtest: foo_split
        ok 1 4k pages
        ok 2 64k pages # SKIP no such pages here
    # foo_split: pass:1 fail:0 skip:1 total:2
    ok 2 foo_split
    ok 3 foo_free
# foo_buddy: pass:2 fail:1 skip:0 total:3
# Totals: pass:2 fail:1 skip:1 total:4
not ok 1 foo_buddy
    KTAP version 1
    # Subtest: foo_rect
    1..1
    ok 1 foo_clip
ok 2 foo_rect
"""


def results(text: str) -> list[tuple[str, str]]:
    return [(test.name, test.outcome) for test in parse(text.splitlines())]


def test_suites_tests_and_cases() -> None:
    assert results(KUNIT) == [
        ("foo_buddy/foo_limit", "fail"),
        ("foo_buddy/foo_split/4k pages", "pass"),
        ("foo_buddy/foo_split/64k pages", "skip"),
        ("foo_buddy/foo_split", "pass"),
        ("foo_buddy/foo_free", "pass"),
        ("foo_buddy", "fail"),
        ("foo_rect/foo_clip", "pass"),
        ("foo_rect", "pass"),
    ]


def test_reasons_and_diagnostics_stay_with_their_test() -> None:
    tests = {test.name: test for test in parse(KUNIT.splitlines())}
    assert tests["foo_buddy/foo_split/64k pages"].why == "no such pages here"
    said = tests["foo_buddy/foo_limit"].said
    assert "foo_limit: EXPECTATION FAILED at drivers/foo/test.c:12" in said
    assert tests["foo_buddy/foo_free"].said == ()


def test_other_lines_of_the_log_do_not_matter() -> None:
    noisy = "\n".join(
        f"{line}\nusb 1-1: new device\n   \nok computer" for line in KUNIT.splitlines()
    )
    assert results(noisy) == results(KUNIT)


def test_tap_14_as_kunit_printed_it_before() -> None:
    text = (
        "TAP version 14\n1..1\n    # Subtest: foo\n    1..2\n"
        "    ok 1 - one\n    not ok 2 - two\nnot ok 1 - foo\n"
    )
    assert results(text) == [("foo/one", "pass"), ("foo/two", "fail"), ("foo", "fail")]


def test_kselftest_is_flat() -> None:
    text = "TAP version 13\n1..2\nok 1 selftests: foo: bar\nok 2 selftests: foo: baz # SKIP\n"
    assert results(text) == [("selftests: foo: bar", "pass"), ("selftests: foo: baz", "skip")]


def test_run_that_was_cut_names_what_is_missing() -> None:
    cut = KUNIT[: KUNIT.index("    ok 3 foo_free")]
    assert results(cut) == [
        ("foo_buddy/foo_limit", "fail"),
        ("foo_buddy/foo_split/4k pages", "pass"),
        ("foo_buddy/foo_split/64k pages", "skip"),
        ("foo_buddy/foo_split", "pass"),
        ("foo_buddy/#3", "missing"),
        ("foo_buddy", "missing"),
        ("#2", "missing"),
    ]


@pytest.mark.parametrize("length", range(0, len(KUNIT), 13))
def test_cut_anywhere_keeps_what_was_done(length: int) -> None:
    cut = KUNIT[:length]
    whole = [line for line in cut.splitlines(keepends=True) if line.endswith("\n")]
    seen = results("".join(whole))
    for name in ("foo_limit", "foo_free", "foo_clip"):
        if any(line.rstrip().endswith(f" {name}") and "ok" in line for line in whole):
            assert any(test.endswith(name) for test, _ in seen), name


def test_lines_outside_a_run_are_no_results() -> None:
    assert results("ok 1 foo\nnot ok 2 bar\n1..4\n# Totals: x\n") == []


def test_two_runs_in_one_log() -> None:
    assert results(KUNIT + KUNIT) == results(KUNIT) * 2


def test_absurd_plan_is_bounded() -> None:
    tests = list(parse(["KTAP version 1", "1..999999999", "ok 1 foo"]))
    assert tests[0] == Subtest(("foo",), "pass")
    assert len(tests) == 1001


def test_lab_dmesg_lists_results(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"[   12.000000] {line}\n" for line in KUNIT.splitlines()))
    shown = CliRunner().invoke(main, ["dmesg", "--ktap", str(log)])
    assert shown.exit_code == 1
    lines = shown.output.splitlines()
    assert lines[0] == "fail    foo_buddy/foo_limit"
    assert lines[2] == "skip    foo_buddy/foo_split/64k pages: no such pages here"
    told = CliRunner().invoke(main, ["dmesg", "--ktap", "--json", str(log)]).output.splitlines()
    assert [json.loads(line)["outcome"] for line in told] == [line.split()[0] for line in lines]
    log.write_text("[    1.000000] KTAP version 1\n[    1.000000] 1..1\n[    1.000000] ok 1 foo\n")
    assert CliRunner().invoke(main, ["dmesg", "--ktap", str(log)]).exit_code == 0
